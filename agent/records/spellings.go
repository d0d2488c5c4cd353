package records

import (
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// keepDeleted is how long the spellings of a deleted volume are kept at least. A node that is not its home does not
// learn when the dataset is destroyed. A dataset rarely stays in the trash longer.
const keepDeleted = 90 * 24 * time.Hour

// Spellings lists the spellings that the engine of this node has used for a volume. They are kept while the dataset is
// in the trash: after drover trash restore, the containers of the engine still use them.
type Spellings struct {
	Dataset uuid.UUID `json:"dataset"`
	Used    []string  `json:"used"` // spellings, such as db@gold
	// Podman is true if Podman made or mounted the volume on this node.
	Podman bool `json:"podman,omitempty"`
	// Deleted is when this node learned that the volume was deleted. docker volume ls does not list these spellings
	// from then on, until the volume exists again.
	Deleted time.Time `json:"deleted,omitzero"`
}

// IsObsolete reports whether the spellings are of a volume that was deleted more than keepDeleted ago.
func (r Spellings) IsObsolete(now time.Time) bool {
	return !r.Deleted.IsZero() && now.Sub(r.Deleted) > keepDeleted
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
	for name, id := range c.names {
		d := &c.datasets[id].Dataset
		if name != d.Volume { // an alias: the volume is listed under its name
			continue
		}
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
		if _, taken := c.names[name]; taken || c.datasets[r.Dataset] != nil || !r.Deleted.IsZero() {
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

// usedLocked returns the recorded spellings. If there is no record, and the engine of this node requested the volume,
// that is the spelling of the request.
func (c *Cache) usedLocked(d *dataset.Dataset, node uuid.UUID) []string {
	if r := c.recordedLocked(d); r != nil {
		return r.Used
	}
	if d.RequestedBy == node {
		return []string{d.RequestedAs}
	}
	return nil
}

// recordedLocked returns the record of the spellings of a dataset, or nil. The record is under the name that the volume
// had when the engine last used a new spelling, so it can be under an alias. A record under a newer name has all
// spellings of the older ones.
func (c *Cache) recordedLocked(d *dataset.Dataset) *Spellings {
	if r := c.spellings[d.Volume]; r != nil && r.Dataset == d.ID {
		return r
	}
	for _, name := range d.Aliases {
		if r := c.spellings[name]; r != nil && r.Dataset == d.ID {
			return r
		}
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
	r := c.recordedLocked(&d)
	return r != nil && r.Podman
}

// SpellingsOfName returns the spellings that are recorded for a name, of whatever dataset.
func (c *Cache) SpellingsOfName(name string) (Spellings, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r := c.spellings[name]
	if r == nil {
		return Spellings{}, false
	}
	return *r, true
}

// SetSpellings replaces the spellings of a name.
func (c *Cache) SetSpellings(name string, r Spellings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spellings[name] = &r
}

// ForgetSpellings removes the spellings of a dataset, and returns the names for which it had any. There are several
// after a restore from the trash under another name.
func (c *Cache) ForgetSpellings(id uuid.UUID) (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, r := range c.spellings {
		if r.Dataset == id {
			delete(c.spellings, name)
			names = append(names, name)
		}
	}
	return names
}
