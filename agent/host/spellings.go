package host

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
)

// keepDeleted is the minimum time for which the spellings of a deleted volume are kept. A node that is not its home
// does not learn when the dataset is destroyed. A dataset rarely stays in the trash longer.
const keepDeleted = 90 * 24 * time.Hour

// SpellingRecord lists the spellings that the engine of this node has used for a volume. They are kept while the
// dataset is in the trash: after drover trash restore, the containers of the engine still use them.
type SpellingRecord struct {
	Dataset uuid.UUID `json:"dataset"`
	Used    []string  `json:"used"` // spellings, such as db@gold; the last one was asked for last
	// Podman is true if Podman made or mounted the volume on this node.
	Podman bool `json:"podman,omitempty"`
	// Deleted is when this node learned that the volume was deleted. docker volume ls does not list these spellings
	// from then on, until the volume exists again.
	Deleted time.Time `json:"deleted,omitzero"`
}

// IsObsolete reports whether the spellings are of a volume that was deleted more than keepDeleted ago.
func (r SpellingRecord) IsObsolete(now time.Time) bool {
	return !r.Deleted.IsZero() && now.Sub(r.Deleted) > keepDeleted
}

// HasOtherName reports whether one of the spellings has a name other than the given one: see IsSpellingOf.
func (r SpellingRecord) HasOtherName(name string) bool {
	return slices.ContainsFunc(r.Used, func(sp string) bool { return nameIn(sp) != name })
}

// names returns the names of the volume in the spellings, each once.
func (r SpellingRecord) names() map[string]bool {
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
func (c *Cache) recordedLocked(d *dataset.Dataset) *SpellingRecord {
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
func (c *Cache) RecordedSpellings(id uuid.UUID) map[string]SpellingRecord {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := map[string]SpellingRecord{}
	for _, name := range c.spelled[id] {
		out[name] = *c.spellings[name]
	}
	return out
}

// SpelledWithName returns the records that have a spelling of a name. They can belong to different datasets.
func (c *Cache) SpelledWithName(name string) (records []SpellingRecord) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, under := range c.spelledWith[name] {
		records = append(records, *c.spellings[under])
	}
	return records
}

// SetSpellings replaces the spellings of a name.
func (c *Cache) SetSpellings(name string, r SpellingRecord) {
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

// Spellings records how the tools of this host spell a volume. An engine knows a volume by the string of its Create
// request, such as db@gold, and must find the volume by that string. Its methods are safe for concurrent use.
type Spellings struct {
	*Host
	mu sync.Mutex // held while spellings are read, written and applied
}

// Record records on disk how this engine spells a volume, unless the volume's own record has it.
func (s *Spellings) Record(ctx context.Context, d dataset.Dataset, ref dataset.Reference) error {
	return s.Save(d, ref, plugin.ToolOf(ctx), func(more map[string]any) error {
		if more == nil {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return s.DB.Put(ctx, more)
	})
}

// Save records that a tool has used a spelling of a volume. It calls save with the values to write to disk, or with nil
// if the use is recorded already.
func (s *Spellings) Save(d dataset.Dataset, ref dataset.Reference, tool plugin.Tool,
	save func(more map[string]any) error) error {
	if s.isRecorded(d, ref.Spelling, tool) {
		return save(nil)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isRecorded(d, ref.Spelling, tool) {
		return save(nil)
	}
	r := SpellingRecord{
		Dataset: d.ID, Used: s.Used(d), Podman: tool == plugin.Podman || s.Cache.UsedByPodman(d),
	}
	r.Used = append(slices.DeleteFunc(r.Used, func(sp string) bool { return sp == ref.Spelling }), ref.Spelling)
	return s.replaceLocked(map[string]SpellingRecord{d.Volume: r}, s.otherNames(d), save)
}

// Load reads the spellings from disk. It is called once, after the cache was loaded and before the other methods.
func (s *Spellings) Load(ctx context.Context) error {
	obsolete := map[string]any{}
	err := s.DB.Each(ctx, "spellings/", func(name string, v []byte) error {
		var r SpellingRecord
		if err := dataset.DecodeRecord(v, &r); err != nil {
			return err
		}
		if _, isHome := s.Cache.Dataset(r.Dataset); !isHome && r.IsObsolete(s.Clock.Now()) {
			obsolete["spellings/"+name] = nil
			return nil
		}
		s.Cache.SetSpellings(name, r)
		return nil
	})
	if err != nil {
		return err
	}
	return s.DB.PutAll(ctx, obsolete)
}

// Forget forgets how the engine spelled a dataset that was destroyed, first on disk and then in memory. Idempotent.
func (s *Spellings) Forget(ctx context.Context, id uuid.UUID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	obsolete := map[string]any{}
	for name := range s.Cache.RecordedSpellings(id) {
		obsolete["spellings/"+name] = nil
	}
	if err := s.DB.PutAll(context.WithoutCancel(ctx), obsolete); err != nil {
		return err
	}
	s.Cache.ForgetSpellings(id)
	return nil
}

// MarkDeleted records that a volume was deleted. docker volume ls does not list its spellings any more.
func (s *Spellings) MarkDeleted(ctx context.Context, id uuid.UUID) error {
	return s.setDeleted(ctx, id, s.Clock.Now())
}

// Restored records that a volume exists again, after MarkDeleted. It is idempotent, and writes nothing in most cases.
func (s *Spellings) Restored(ctx context.Context, d dataset.Dataset) error {
	return s.setDeleted(ctx, d.ID, time.Time{})
}

func (s *Spellings) setDeleted(ctx context.Context, id uuid.UUID, at time.Time) error {
	needsChange := func(r SpellingRecord) bool { return r.Deleted.IsZero() != at.IsZero() }
	if now := s.Cache.RecordedSpellings(id); !slices.ContainsFunc(slices.Collect(maps.Values(now)), needsChange) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := map[string]SpellingRecord{}
	for name, r := range s.Cache.RecordedSpellings(id) {
		if needsChange(r) {
			r.Deleted = at
			changed[name] = r
		}
	}
	return s.replaceLocked(changed, nil, s.write(ctx))
}

// FollowNames records the spellings of a volume under its name, without those whose name the volume does not have any
// more, or that the volume was deleted. Call it after a change of the names or of the state. It is idempotent, and
// writes nothing in most cases.
func (s *Spellings) FollowNames(ctx context.Context, d dataset.Dataset) error {
	if d.State != dataset.StateReady {
		return s.MarkDeleted(ctx, d.ID)
	}
	if err := s.Restored(ctx, d); err != nil || s.followsNames(d) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.followsNames(d) {
		return nil
	}
	r := SpellingRecord{Dataset: d.ID, Used: s.Used(d), Podman: s.Cache.UsedByPodman(d)}
	return s.replaceLocked(map[string]SpellingRecord{d.Volume: r}, s.otherNames(d), s.write(ctx))
}

func (s *Spellings) followsNames(d dataset.Dataset) bool {
	for name, r := range s.Cache.RecordedSpellings(d.ID) {
		isOther := func(spelling string) bool { return !IsSpellingOf(d, spelling) }
		if name != d.Volume || slices.ContainsFunc(r.Used, isOther) {
			return false
		}
	}
	return true
}

// otherNames returns the names under which spellings of a dataset are recorded, except its present one.
func (s *Spellings) otherNames(d dataset.Dataset) []string {
	names := s.Cache.RecordedSpellings(d.ID)
	delete(names, d.Volume)
	return slices.Collect(maps.Keys(names))
}

// write returns a function that writes values to disk, even if ctx ends.
func (s *Spellings) write(ctx context.Context) func(values map[string]any) error {
	return func(values map[string]any) error { return s.DB.Put(context.WithoutCancel(ctx), values) }
}

// replaceLocked writes records to disk, by save, and to memory, and removes those of the names in removed, as after a
// rename.
func (s *Spellings) replaceLocked(set map[string]SpellingRecord, removed []string,
	save func(values map[string]any) error) error {
	values := map[string]any{}
	for name, r := range set {
		values["spellings/"+name] = r
	}
	for _, name := range removed {
		values["spellings/"+name] = nil
	}
	if err := save(values); err != nil {
		return err
	}
	for name, r := range set {
		s.Cache.SetSpellings(name, r)
	}
	for _, name := range removed {
		s.Cache.RemoveSpellings(name)
	}
	for _, r := range set {
		s.News.Changed(r.Dataset) // the aliases that the engine uses are reported
	}
	return nil
}

// Used returns the spellings that this engine has used for a volume.
func (s *Spellings) Used(d dataset.Dataset) []string {
	return s.Cache.SpellingsOf(d, s.NodeID)
}

// isRecorded reports whether it is recorded that a tool has used a spelling of a volume, and none later.
func (s *Spellings) isRecorded(d dataset.Dataset, spelling string, tool plugin.Tool) bool {
	used := s.Used(d)
	return len(used) > 0 && used[len(used)-1] == spelling && (tool != plugin.Podman || s.Cache.UsedByPodman(d))
}

// Remove removes a spelling of a volume. If the volume must be deleted instead, Remove keeps the spelling and returns
// false: no container of the engine may need the volume by another spelling, and this one has the name of the volume
// and not an alias. isNeeded reports whether a container may need one of some spellings. A removal by an alias never
// deletes the data. If the last spelling was an alias, an empty list is recorded, so that docker volume ls shows the
// volume by its name.
func (s *Spellings) Remove(ctx context.Context, d dataset.Dataset, ref dataset.Reference,
	isNeeded func(spellings []string) bool) (removed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tool, used := plugin.ToolOf(ctx), s.Used(d)
	rest := slices.DeleteFunc(slices.Clone(used), func(s string) bool { return s == ref.Spelling })
	switch {
	case ref.Name == d.Volume && !isNeeded(rest):
		return false, nil
	case len(rest) == len(used):
		return true, nil
	}
	r := SpellingRecord{Dataset: d.ID, Used: rest, Podman: tool != plugin.Podman && s.Cache.UsedByPodman(d)}
	return true, s.replaceLocked(map[string]SpellingRecord{d.Volume: r}, s.otherNames(d), s.write(ctx))
}
