package host

import (
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// ReplaceByCopy replaces the record of a dataset whose home is now another node by the copy that this node keeps. It
// does nothing if the record has the copy's epoch or a later one: the dataset has then moved back to this node since
// the copy was recorded.
func (c *Cache) ReplaceByCopy(k api.AssignedCopy) (left bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := c.datasets[k.Dataset]; d != nil && k.Record != nil && k.Record.Epoch <= d.epoch {
		return false
	}
	c.setCopyLocked(k.Dataset, &k)
	c.removeLocked(k.Dataset)
	return true
}

// Copy returns the copy that this node keeps of a dataset whose home is elsewhere.
func (c *Cache) Copy(id uuid.UUID) (api.AssignedCopy, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	k, kept := c.copies[id]
	return k, kept
}

// SetCopy adds or replaces the copy of a dataset. Nil removes it.
func (c *Cache) SetCopy(id uuid.UUID, k *api.AssignedCopy) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setCopyLocked(id, k)
}

func (c *Cache) setCopyLocked(id uuid.UUID, k *api.AssignedCopy) {
	old := c.copies[id]
	c.provisioned[old.Pool] -= provisionedByCopy(old)
	delete(c.inspections, InspectionID(old))
	delete(c.copies, id)
	if k == nil {
		return
	}
	c.provisioned[k.Pool] += provisionedByCopy(*k)
	c.copies[id] = *k
	if IsInspected(*k) {
		c.inspections[InspectionID(*k)] = id
	}
}

// InspectedCopy returns the copy for whose inspection the dataset id is mounted (see InspectionID).
func (c *Cache) InspectedCopy(id uuid.UUID) (api.AssignedCopy, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	of, is := c.inspections[id]
	return c.copies[of], is
}

// CopyIDs returns the UUIDs of the copies that this node keeps.
func (c *Cache) CopyIDs() []uuid.UUID {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Collect(maps.Keys(c.copies))
}

// DatasetOrCopy returns the record of a dataset whose home is this node, or of which this node keeps a copy.
func (c *Cache) DatasetOrCopy(id uuid.UUID) (dataset.Dataset, bool) {
	if d, home := c.Dataset(id); home {
		return d, true
	}
	k, kept := c.Copy(id)
	if !kept {
		return dataset.Dataset{}, false
	}
	if k.Record == nil {
		return dataset.Dataset{ID: id, Volume: id.String(), Pool: k.Pool, State: dataset.StatePurging}, true
	}
	return *k.Record, true
}

// LeftDatasets returns the datasets that are known to have moved to another node, each with the epoch of that move.
func (c *Cache) LeftDatasets() map[uuid.UUID]uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	at := map[uuid.UUID]uint64{}
	for id, k := range c.copies {
		if k.Record != nil {
			at[id] = k.Record.Epoch
		}
	}
	return at
}

// HasLeftSince reports whether a dataset has moved to another node at a later epoch than that of the record d. Such a
// record is from a store that was restored from a backup.
func (c *Cache) HasLeftSince(d dataset.Dataset) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	k, kept := c.copies[d.ID]
	return kept && k.Record != nil && k.Record.Epoch > d.Epoch
}

// InspectionID returns the UUID of the dataset that is mounted so that an operator can inspect a copy. It is the same
// at each start.
func InspectionID(k api.AssignedCopy) uuid.UUID {
	return uuid.NewSHA1(k.Dataset, fmt.Appendf(nil, "shown/%s/%s", k.Node, k.Snapshot))
}

// IsInspected reports whether an operator has requested that a copy is mounted for inspection.
func IsInspected(k api.AssignedCopy) bool {
	return k.MountReadOnly && k.Kind == dataset.CopySuperseded && k.Record != nil
}
