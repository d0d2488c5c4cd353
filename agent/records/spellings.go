package records

import (
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Spellings lists the spellings by which the engine of this node has used a volume.
type Spellings struct {
	Dataset uuid.UUID `json:"dataset"`
	Used    []string  `json:"used"` // spellings, such as db@gold
	// Podman is true if Podman made or mounted the volume on this node.
	Podman bool `json:"podman,omitempty"`
}

// ListEntry is a line of docker volume ls.
type ListEntry struct {
	Name     string // of the volume
	Spelling string
	Dataset  uuid.UUID
}

// List returns the volumes that docker volume ls shows, in no order: the live volumes of this node, those of
// which it keeps a copy, and those of other nodes that its engine has used. A volume appears once for each
// spelling that the engine has used. If it has used none, the volume appears with its original spelling. node
// is this node.
func (c *Cache) List(node uuid.UUID) []ListEntry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]ListEntry, 0, len(c.names))
	for _, id := range c.names {
		d := &c.datasets[id].Dataset
		used := c.usedLocked(d, node)
		if len(used) == 0 {
			used = []string{d.RequestedAs}
		}
		for _, sp := range used {
			out = append(out, ListEntry{d.Volume, sp, id})
		}
	}
	elsewhere := map[uuid.UUID]*dataset.Dataset{}
	for id, k := range c.copies {
		if _, taken := c.names[volumeOfCopy(k)]; !taken && k.Record != nil && k.Record.State == dataset.StateReady {
			elsewhere[id] = k.Record
		}
	}
	for name, r := range c.spellings {
		if _, taken := c.names[name]; taken || c.datasets[r.Dataset] != nil {
			continue
		}
		delete(elsewhere, r.Dataset)
		for _, sp := range r.Used {
			out = append(out, ListEntry{name, sp, r.Dataset})
		}
	}
	for id, d := range elsewhere {
		out = append(out, ListEntry{d.Volume, d.RequestedAs, id})
	}
	return out
}

func volumeOfCopy(k api.AssignedCopy) string {
	if k.Record == nil {
		return ""
	}
	return k.Record.Volume
}

// usedLocked returns the recorded spellings. If there is no record, the engine that created the volume has used the
// spelling with which it was created.
func (c *Cache) usedLocked(d *dataset.Dataset, node uuid.UUID) []string {
	if r := c.spellings[d.Volume]; r != nil && r.Dataset == d.ID {
		return r.Used
	}
	if d.RequestedBy == node {
		return []string{d.RequestedAs}
	}
	return nil
}

// SpellingsOf returns the spellings that the engine of this node has used for a dataset. node is the UUID of this node.
func (c *Cache) SpellingsOf(d dataset.Dataset, node uuid.UUID) []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Clone(c.usedLocked(&d, node))
}

// UsedByPodman reports whether Podman's use of a dataset on this node is recorded.
func (c *Cache) UsedByPodman(d dataset.Dataset) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r := c.spellings[d.Volume]
	return r != nil && r.Dataset == d.ID && r.Podman
}

// DatasetNamed returns the dataset for which the engine last used a name.
func (c *Cache) DatasetNamed(name string) (uuid.UUID, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r := c.spellings[name]
	if r == nil {
		return uuid.Nil, false
	}
	return r.Dataset, true
}

// SetSpellings replaces the spellings of a name.
func (c *Cache) SetSpellings(name string, r Spellings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spellings[name] = &r
}

// ForgetSpellings removes the spellings of a dataset's name, unless another dataset has that name now. It reports
// whether there were any.
func (c *Cache) ForgetSpellings(d dataset.Dataset) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.spellings[d.Volume]
	if r == nil || r.Dataset != d.ID {
		return false
	}
	delete(c.spellings, d.Volume)
	return true
}
