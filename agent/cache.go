package agent

import (
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// cache is what the agent knows of the datasets whose home it is, and of every
// name that its engine has used. It answers when control cannot; it is kept new
// by the agent's own commits and by syncs.
type cache struct {
	mu        sync.RWMutex
	datasets  map[uuid.UUID]*api.Indexed
	copies    map[uuid.UUID]api.Kept  // whose home is another node
	shows     map[uuid.UUID]uuid.UUID // what some of those are shown as: of which copy it is
	names     map[string]uuid.UUID    // live volumes
	spellings map[string]*spellingRecord
	dirty     map[uuid.UUID]bool   // records to be copied to disk
	moment    uint64               // how many records were taken in
	since     map[uuid.UUID]uint64 // at which moment each was
}

func newCache() *cache {
	return &cache{
		datasets: map[uuid.UUID]*api.Indexed{}, copies: map[uuid.UUID]api.Kept{}, shows: map[uuid.UUID]uuid.UUID{}, names: map[string]uuid.UUID{},
		spellings: map[string]*spellingRecord{}, dirty: map[uuid.UUID]bool{}, since: map[uuid.UUID]uint64{},
	}
}

// load takes a copy from disk.
func (c *cache) load(d api.Indexed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.putLocked(d)
}

func (c *cache) putLocked(d api.Indexed) {
	c.datasets[d.ID] = &d
	c.moment++
	c.since[d.ID] = c.moment
	if d.State == dataset.StateReady {
		c.names[d.Volume] = d.ID
	}
}

// apply takes a record unless a newer one is known, or one of a later epoch: what
// an older store says of it must not open an epoch that has ended. It reports
// whether the record is another than before.
func (c *cache) apply(d dataset.Dataset, index uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.datasets[d.ID]
	if old != nil {
		if index != 0 && index <= old.Index || d.Epoch < old.Epoch {
			return false
		}
		if reflect.DeepEqual(old.Dataset, d) {
			old.Index = max(old.Index, index)
			return false
		}
		c.unnameLocked(old)
	}
	c.putLocked(api.Indexed{Dataset: d, Index: index})
	c.dirty[d.ID] = true
	return true
}

func (c *cache) remove(id uuid.UUID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeLocked(id)
}

func (c *cache) removeLocked(id uuid.UUID) {
	d := c.datasets[id]
	if d == nil {
		return
	}
	delete(c.datasets, id)
	delete(c.since, id)
	c.unnameLocked(d)
	c.dirty[id] = true
}

// now is the moment before whatever is taken in next.
func (c *cache) now() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.moment
}

// removeOf removes a record of which an answer that was asked for at a moment says that it
// is none of this node's, unless it was taken in since: the answer may be older.
func (c *cache) removeOf(id uuid.UUID, asked uint64) (removed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since[id] > asked {
		return false
	}
	c.removeLocked(id)
	return true
}

// leave takes in a copy in place of the record, unless that is of an epoch as late: what
// is said of the copy is from before it came here.
func (c *cache) leave(k api.Kept) (left bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := c.datasets[k.Dataset]; d != nil && k.Record != nil && k.Record.Epoch <= d.Epoch {
		return false
	}
	c.setCopyLocked(k.Dataset, &k)
	c.removeLocked(k.Dataset)
	return true
}

// unnameLocked takes its name off a dataset, for another that has it too: of a
// name that was used again, copies on disk can have both.
func (c *cache) unnameLocked(d *api.Indexed) {
	if c.names[d.Volume] != d.ID {
		return
	}
	delete(c.names, d.Volume)
	for id, o := range c.datasets {
		if id != d.ID && o.Volume == d.Volume && o.State == dataset.StateReady {
			c.names[d.Volume] = id
		}
	}
}

// dataset returns a record by UUID.
func (c *cache) dataset(id uuid.UUID) (dataset.Dataset, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if k := c.datasets[id]; k != nil {
		return k.Dataset, true
	}
	return dataset.Dataset{}, false
}

// volume returns a live volume by name.
func (c *cache) volume(name string) (dataset.Dataset, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if id, ok := c.names[name]; ok {
		return c.datasets[id].Dataset, true
	}
	return dataset.Dataset{}, false
}

// copied returns the copy that this node keeps of a dataset whose home is elsewhere.
func (c *cache) copied(id uuid.UUID) (api.Kept, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	k, kept := c.copies[id]
	return k, kept
}

// setCopy takes in a copy, nil: there is none any more.
func (c *cache) setCopy(id uuid.UUID, k *api.Kept) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setCopyLocked(id, k)
}

func (c *cache) setCopyLocked(id uuid.UUID, k *api.Kept) {
	delete(c.shows, shownAs(c.copies[id]))
	delete(c.copies, id)
	if k == nil {
		return
	}
	c.copies[id] = *k
	if isShown(*k) {
		c.shows[shownAs(*k)] = id
	}
}

// shown returns the copy that a dataset shows, of those that are to be shown.
func (c *cache) shown(id uuid.UUID) (api.Kept, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	of, is := c.shows[id]
	return c.copies[of], is
}

// copyIDs returns the datasets of which this node keeps a copy.
func (c *cache) copyIDs() []uuid.UUID {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Collect(maps.Keys(c.copies))
}

// either returns the record of a dataset whose home is here, or of which a copy is.
func (c *cache) either(id uuid.UUID) (dataset.Dataset, bool) {
	if d, home := c.dataset(id); home {
		return d, true
	}
	k, kept := c.copied(id)
	if !kept {
		return dataset.Dataset{}, false
	}
	if k.Record == nil {
		return dataset.Dataset{ID: id, Volume: id.String(), Pool: k.Pool, State: dataset.StatePurging}, true
	}
	return *k.Record, true
}

func (c *cache) ids() []uuid.UUID {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]uuid.UUID, 0, len(c.datasets))
	for id := range c.datasets {
		out = append(out, id)
	}
	return out
}

// listed is one line of docker volume ls.
type listed struct {
	spelling string
	dataset  uuid.UUID
}

// list returns every live volume whose home is here or of which a copy is, and those
// elsewhere that the engine has used: in the spellings that it has used, or, when it has
// used none, as it was first created.
func (c *cache) list(node uuid.UUID) []listed {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]listed, 0, len(c.names))
	for _, id := range c.names {
		d := &c.datasets[id].Dataset
		used := c.usedLocked(d, node)
		if len(used) == 0 {
			used = []string{d.Spelling}
		}
		for _, sp := range used {
			out = append(out, listed{sp, id})
		}
	}
	elsewhere := map[uuid.UUID]string{}
	for id, k := range c.copies {
		if _, taken := c.names[volumeOfCopy(k)]; !taken && k.Record != nil && k.Record.State == dataset.StateReady {
			elsewhere[id] = k.Record.Spelling
		}
	}
	for name, r := range c.spellings {
		if _, taken := c.names[name]; taken || c.datasets[r.Dataset] != nil {
			continue
		}
		delete(elsewhere, r.Dataset)
		for _, sp := range r.Used {
			out = append(out, listed{sp, r.Dataset})
		}
	}
	for id, sp := range elsewhere {
		out = append(out, listed{sp, id})
	}
	return out
}

func volumeOfCopy(k api.Kept) string {
	if k.Record == nil {
		return ""
	}
	return k.Record.Volume
}

// usedLocked: the record says it, once there is one; until then the engine that
// had the volume made used the spelling it was made with.
func (c *cache) usedLocked(d *dataset.Dataset, node uuid.UUID) []string {
	if r := c.spellings[d.Volume]; r != nil && r.Dataset == d.ID {
		return r.Used
	}
	if d.SpelledBy == node {
		return []string{d.Spelling}
	}
	return nil
}

// used returns the spellings that this node's engine has used for a dataset.
func (c *cache) used(d dataset.Dataset, node uuid.UUID) []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Clone(c.usedLocked(&d, node))
}

// usedByPodman reports whether it is on record that Podman has used a dataset on this node.
func (c *cache) usedByPodman(d dataset.Dataset) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r := c.spellings[d.Volume]
	return r != nil && r.Dataset == d.ID && r.Podman
}

// usedFor returns the dataset that the engine meant by a name when it used it last.
func (c *cache) usedFor(name string) (uuid.UUID, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r := c.spellings[name]
	if r == nil {
		return uuid.Nil, false
	}
	return r.Dataset, true
}

// setUsed replaces the record of a name.
func (c *cache) setUsed(name string, r spellingRecord) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spellings[name] = &r
}

// dropUsed forgets the record of a dataset's name, unless it is another
// dataset's by now. It reports whether there was one.
func (c *cache) dropUsed(d dataset.Dataset) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.spellings[d.Volume]
	if r == nil || r.Dataset != d.ID {
		return false
	}
	delete(c.spellings, d.Volume)
	return true
}

// takeDirty returns what changed since the last call: records, nil for those
// that are gone.
func (c *cache) takeDirty(limit int) map[uuid.UUID]*api.Indexed {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[uuid.UUID]*api.Indexed{}
	for id := range c.dirty {
		if len(out) == limit {
			break
		}
		out[id] = nil
		if k := c.datasets[id]; k != nil {
			d := *k
			out[id] = &d
		}
		delete(c.dirty, id)
	}
	return out
}

// untake gives back what could not be written.
func (c *cache) untake(taken map[uuid.UUID]*api.Indexed) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range taken {
		c.dirty[id] = true
	}
}

// index is that of the transaction which last wrote a dataset, as far as it is
// known here.
func (c *cache) index(id uuid.UUID) uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if d := c.datasets[id]; d != nil {
		return d.Index
	}
	return 0
}

// seen is how far a dataset's record was seen to come.
type seen struct {
	index, epoch uint64
	volume       string
	going        bool // on its way out
}

// seen returns that of all.
func (c *cache) seen() map[uuid.UUID]seen {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make(map[uuid.UUID]seen, len(c.datasets))
	for id, d := range c.datasets {
		out[id] = seen{d.Index, d.Epoch, d.Volume, d.State == dataset.StatePurging}
	}
	return out
}

// forgetIndexes makes every record one that any other replaces.
func (c *cache) forgetIndexes() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, d := range c.datasets {
		d.Index = 0
		c.dirty[id] = true
	}
}
