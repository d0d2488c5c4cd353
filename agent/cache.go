package agent

import (
	"reflect"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// cache is what the agent knows of the datasets whose home it is, and of every
// name that its engine has used. It answers when control cannot; it is kept new
// by the agent's own commits and by syncs.
type cache struct {
	mu        sync.RWMutex
	datasets  map[uuid.UUID]*known
	names     map[string]uuid.UUID // live volumes
	spellings map[string]*spellingRecord
	dirty     map[uuid.UUID]bool // records to be copied to disk
}

type known struct {
	dataset.Dataset
	index uint64
}

func newCache() *cache {
	return &cache{
		datasets: map[uuid.UUID]*known{}, names: map[string]uuid.UUID{},
		spellings: map[string]*spellingRecord{}, dirty: map[uuid.UUID]bool{},
	}
}

// apply takes a record unless a newer one is known; it reports whether the
// record is another than before.
func (c *cache) apply(d dataset.Dataset, index uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.datasets[d.ID]
	if old != nil {
		if index != 0 && index <= old.index {
			return false
		}
		if reflect.DeepEqual(old.Dataset, d) {
			old.index = index
			return false
		}
		if c.names[old.Volume] == d.ID {
			delete(c.names, old.Volume)
		}
	}
	c.datasets[d.ID] = &known{d, index}
	if d.State == dataset.StateReady {
		c.names[d.Volume] = d.ID
	}
	c.dirty[d.ID] = true
	return true
}

func (c *cache) remove(id uuid.UUID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.datasets[id]
	if d == nil {
		return
	}
	if c.names[d.Volume] == id {
		delete(c.names, d.Volume)
	}
	delete(c.datasets, id)
	c.dirty[id] = true
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

// list returns every live volume in the spellings that the engine has used, or,
// when it has used none, as it was first created.
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
	return out
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

// setUsed replaces the record of a name; an empty one forgets it.
func (c *cache) setUsed(name string, r spellingRecord) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(r.Used) == 0 {
		delete(c.spellings, name)
		return
	}
	c.spellings[name] = &r
}

// takeDirty returns what changed since the last call: records, nil for those
// that are gone.
func (c *cache) takeDirty(limit int) map[uuid.UUID]*dataset.Dataset {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[uuid.UUID]*dataset.Dataset{}
	for id := range c.dirty {
		if len(out) == limit {
			break
		}
		out[id] = nil
		if k := c.datasets[id]; k != nil {
			d := k.Dataset
			out[id] = &d
		}
		delete(c.dirty, id)
	}
	return out
}
