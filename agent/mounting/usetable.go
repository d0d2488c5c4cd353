package mounting

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/dataset"
)

// UseTable has the uses of each mounted dataset, by mount ID, in memory and on disk. The record of a dataset changes
// only while the dataset's lock is held. Its methods are safe for concurrent use.
type UseTable struct {
	*host.Host

	mu        sync.Mutex
	records   map[uuid.UUID]*Record
	idleSince map[uuid.UUID]time.Duration // datasets that are mounted without a use, and since when by the steady clock
}

// Load reads the uses from disk. some reports whether there are uses of this boot. Such uses may have ended while no
// agent ran.
func (t *UseTable) Load(ctx context.Context) (some bool, err error) {
	err = records.EachDataset(ctx, t.DB, "mounts/", func(id uuid.UUID, r Record) error {
		for use, c := range r.IDs {
			c.Inherited = true
			r.IDs[use] = c
		}
		if r.Boot == t.Boot && len(r.IDs) > 0 {
			some = true
		}
		t.records[id] = &r
		return nil
	})
	return some, err
}

// Get returns a copy of a dataset's record. Uses of another boot are not in it.
func (t *UseTable) Get(id uuid.UUID) Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := Record{Boot: t.Boot, IDs: map[string]Use{}}
	if old := t.records[id]; old != nil {
		r.Epoch = old.Epoch
		if old.Boot == t.Boot {
			r.IDs = maps.Clone(old.IDs)
		}
	}
	if r.IDs == nil {
		r.IDs = map[string]Use{}
	}
	return r
}

// Save writes the record of a dataset's uses to disk and then to memory. In the same transaction it writes the values
// in more and, if this node is the home, a copy of the dataset's record, which a mount without control needs. The copy
// is the newer one of d and the record in the cache: see records.Newer, which explains asked. If d is not from control,
// asked is 0.
func (t *UseTable) Save(ctx context.Context, d dataset.Dataset, asked uint64, r Record, more map[string]any) error {
	values := map[string]any{"mounts/" + d.ID.String(): r}
	now, _ := records.NewerIndexed(t.Cache, d, asked)
	if _, left := t.Cache.Copy(d.ID); !left && now.Home == t.NodeID { // a start mounts only these datasets
		values["volumes/"+d.ID.String()] = now
	}
	maps.Copy(values, more)
	if err := t.DB.Put(ctx, values); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.records[d.ID] = &r
	return nil
}

// Drop removes the record of a dataset that does not exist any more, first from disk and then from memory. Idempotent.
func (t *UseTable) Drop(ctx context.Context, id uuid.UUID) error {
	t.mu.Lock()
	_, known := t.records[id]
	t.mu.Unlock()
	if !known {
		return nil
	}
	if err := t.DB.Put(ctx, map[string]any{"mounts/" + id.String(): nil}); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.records, id)
	return nil
}

// InUse returns the datasets that have uses on this boot.
func (t *UseTable) InUse() []uuid.UUID {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []uuid.UUID
	for id, r := range t.records {
		if r.Boot == t.Boot && len(r.IDs) > 0 {
			out = append(out, id)
		}
	}
	return out
}

// MarkIdle records that a dataset is, or soon will be, mounted without a use.
func (t *UseTable) MarkIdle(id uuid.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.idleSince[id] = t.Clock.Steady()
}

// ClearIdle records that a dataset has a use, or is not mounted.
func (t *UseTable) ClearIdle(id uuid.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.idleSince, id)
}

// IdleFor returns the datasets that have been mounted without a use for at least a duration.
func (t *UseTable) IdleFor(least time.Duration) (ids []uuid.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, since := range t.idleSince {
		if t.Clock.Steady()-since >= least {
			ids = append(ids, id)
		}
	}
	return ids
}
