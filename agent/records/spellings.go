package records

import (
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// keepDeleted is the minimum time for which the spellings of a deleted volume are kept. A node that is not its home
// does not learn when the dataset is destroyed. A dataset rarely stays in the trash longer.
const keepDeleted = 90 * 24 * time.Hour

// Spellings lists the spellings that the engine of this node has used for a volume. They are kept while the dataset is
// in the trash: after drover trash restore, the containers of the engine still use them.
type Spellings struct {
	Dataset uuid.UUID `json:"dataset"`
	Used    []string  `json:"used"` // spellings, such as db@gold; the last one was asked for last
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

// HasOtherName reports whether one of the spellings has a name other than the given one: see IsSpellingOf.
func (r Spellings) HasOtherName(name string) bool {
	return slices.ContainsFunc(r.Used, func(sp string) bool { return nameIn(sp) != name })
}

// names returns the names of the volume in the spellings, each once.
func (r Spellings) names() map[string]bool {
	names := map[string]bool{}
	for _, spelling := range r.Used {
		names[nameIn(spelling)] = true
	}
	return names
}

// ListEntry is a line of docker volume ls.
type ListEntry struct {
	Name     string // of the volume
	Spelling string
	Dataset  uuid.UUID
}

// List returns the volumes that docker volume ls shows, in no order: the live volumes of this node, those of
// which it keeps a copy, and those of other nodes that its engine has used. A volume appears once for each
// spelling that the engine has used and that still finds it. If there is none, the volume appears with its
// DefaultSpelling. node is this node.
func (c *Cache) List(node uuid.UUID) []ListEntry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]ListEntry, 0, len(c.names))
	for name, id := range c.names {
		e := c.datasets[id]
		if name == e.volume { // otherwise an alias: the volume is listed under its name
			d := e.dataset()
			out = append(out, c.entriesLocked(&d, node)...)
		}
	}
	copies := map[uuid.UUID]bool{}
	for id, k := range c.copies {
		if k.Record == nil || k.Record.State != dataset.StateReady {
			continue
		}
		if _, taken := c.names[k.Record.Volume]; !taken {
			copies[id] = true
			out = append(out, c.entriesLocked(k.Record, node)...)
		}
	}
	for name, r := range c.spellings {
		if copies[r.Dataset] || c.datasets[r.Dataset] != nil || !r.Deleted.IsZero() {
			continue
		}
		for _, sp := range r.Used { // only control knows which of their names the volume still has
			if _, taken := c.names[nameIn(sp)]; !taken {
				out = append(out, ListEntry{name, sp, r.Dataset})
			}
		}
	}
	return out
}

// entriesLocked returns the lines of a volume. A name in the spellings can belong to another volume now.
func (c *Cache) entriesLocked(d *dataset.Dataset, node uuid.UUID) (out []ListEntry) {
	for _, sp := range c.usedLocked(d, node) {
		if id, taken := c.names[nameIn(sp)]; !taken || id == d.ID {
			out = append(out, ListEntry{d.Volume, sp, d.ID})
		}
	}
	if len(out) == 0 {
		out = append(out, ListEntry{d.Volume, DefaultSpelling(*d), d.ID})
	}
	return out
}

// nameIn returns the name of the volume in a spelling: db in db@gold.
func nameIn(spelling string) string {
	name, _ := dataset.Reference{Spelling: spelling}.SplitAtSign()
	return name
}

// IsSpellingOf reports whether a spelling has the name or an alias of a volume. After a rename, the spellings of the
// former name are valid until that alias is dropped.
func IsSpellingOf(d dataset.Dataset, spelling string) bool { return d.HasName(nameIn(spelling)) }

// DefaultSpelling returns the spelling of a volume for an engine that has used none: that of the request which made
// the volume or, after a rename, the name.
func DefaultSpelling(d dataset.Dataset) string {
	if nameIn(d.RequestedAs) == d.Volume {
		return d.RequestedAs
	}
	return d.Volume
}

// usedLocked returns the recorded spellings that still find the volume, in a new slice. If there is no record, and the
// engine of this node requested the volume, usedLocked returns the spelling of the request.
func (c *Cache) usedLocked(d *dataset.Dataset, node uuid.UUID) (used []string) {
	if r := c.recordedLocked(d); r != nil {
		used = slices.Clone(r.Used)
	} else if d.RequestedBy == node {
		used = []string{d.RequestedAs}
	}
	return slices.DeleteFunc(used, func(sp string) bool { return !IsSpellingOf(*d, sp) })
}

// recordedLocked returns the record of the spellings of a dataset, or nil. The record is under the name that the volume
// had when the engine last used a new spelling. That can be an alias, or an alias that was dropped.
func (c *Cache) recordedLocked(d *dataset.Dataset) *Spellings {
	for _, name := range slices.Concat(d.Names(), c.spelled[d.ID]) {
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
	return c.usedLocked(&d, node)
}

// AliasSpellings returns the spellings of aliases of a dataset that the engine of this node has used, sorted, and at
// most as many as a report may have. node is the UUID of this node.
func AliasSpellings(c *Cache, d dataset.Dataset, node uuid.UUID) []string {
	if len(d.Aliases) == 0 {
		return nil
	}
	used := slices.DeleteFunc(c.SpellingsOf(d, node), func(sp string) bool { return nameIn(sp) == d.Volume })
	slices.Sort(used)
	return used[:min(len(used), dataset.MaxEngineNames)]
}

// UsedByPodman reports whether Podman's use of a dataset on this node is recorded.
func (c *Cache) UsedByPodman(d dataset.Dataset) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r := c.recordedLocked(&d)
	return r != nil && r.Podman
}

// RecordedSpellings returns the records of the spellings of a dataset, by name. There is more than one only after a
// restore from the trash under another name.
func (c *Cache) RecordedSpellings(id uuid.UUID) map[string]Spellings {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := map[string]Spellings{}
	for _, name := range c.spelled[id] {
		out[name] = *c.spellings[name]
	}
	return out
}

// SpelledWithName returns the records that have a spelling of a name. They can belong to different datasets.
func (c *Cache) SpelledWithName(name string) (records []Spellings) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, under := range c.spelledWith[name] {
		records = append(records, *c.spellings[under])
	}
	return records
}

// SetSpellings replaces the spellings of a name.
func (c *Cache) SetSpellings(name string, r Spellings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeSpellingsLocked(name)
	c.spellings[name] = &r
	addTo(c.spelled, r.Dataset, name)
	for used := range r.names() {
		addTo(c.spelledWith, used, name)
	}
}

// RemoveSpellings removes the spellings of a name. Idempotent.
func (c *Cache) RemoveSpellings(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeSpellingsLocked(name)
}

func (c *Cache) removeSpellingsLocked(name string) {
	r := c.spellings[name]
	if r == nil {
		return
	}
	delete(c.spellings, name)
	removeFrom(c.spelled, r.Dataset, name)
	for used := range r.names() {
		removeFrom(c.spelledWith, used, name)
	}
}

// addTo adds a name to the list of a key.
func addTo[K comparable](lists map[K][]string, key K, name string) {
	lists[key] = append(lists[key], name)
}

// removeFrom removes a name from the list of a key, and the list if it is empty then.
func removeFrom[K comparable](lists map[K][]string, key K, name string) {
	lists[key] = slices.DeleteFunc(lists[key], func(n string) bool { return n == name })
	if len(lists[key]) == 0 {
		delete(lists, key)
	}
}

// ForgetSpellings removes the spellings of a dataset, and returns the names for which it had any.
func (c *Cache) ForgetSpellings(id uuid.UUID) (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	names = slices.Clone(c.spelled[id])
	for _, name := range names {
		c.removeSpellingsLocked(name)
	}
	return names
}
