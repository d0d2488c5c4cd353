package pool

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// All returns the pools, open or not: those of drover.yaml in its order, then the default pool, then the others by
// name.
func (t *Pools) All() []*Pool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]*Pool, 0, len(t.Order))
	for _, id := range t.Order {
		out = append(out, t.byID[id])
	}
	return out
}

// ByID returns a pool, open or not, or nil if this node has no pool with this UUID.
func (t *Pools) ByID(id uuid.UUID) *Pool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byID[id]
}

// ByName returns the pool with a name, open or not.
func (t *Pools) ByName(name string) (*Pool, bool) {
	list := t.All()
	i := slices.IndexFunc(list, func(o *Pool) bool { return o.Name == name })
	if i < 0 {
		return nil, false
	}
	return list[i], true
}

// Name returns the name of a pool, or its UUID if this node has no such pool.
func (t *Pools) Name(id uuid.UUID) string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if p := t.byID[id]; p != nil {
		return p.Name
	}
	return id.String()
}

// Records returns the pools to report to control, in their order, without those that are being removed.
func (t *Pools) Records() []dataset.Pool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]dataset.Pool, 0, len(t.Order))
	for _, id := range t.Order {
		if p := t.byID[id]; p.Record.Leaving == NotLeaving {
			out = append(out, p.Pool)
		}
	}
	return out
}

// Get returns a pool that is served. Otherwise it fails with dataset.ErrOffline, and the error gives the reason: see
// Pool.CheckServed.
func (t *Pools) Get(id uuid.UUID) (backends.Pool, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	p := t.byID[id]
	if p == nil {
		return nil, unknownPool(id)
	}
	if err := p.CheckServed(); err != nil {
		return nil, err
	}
	return p.Storage, nil
}

// CheckQuarantine fails with dataset.ErrOffline while a pool is quarantined.
func (t *Pools) CheckQuarantine(id uuid.UUID) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if p := t.byID[id]; p != nil {
		return p.checkQuarantine()
	}
	return nil
}

// Change replaces a pool by a copy that f has modified, and logs when the pool becomes quarantined or leaves
// quarantine. f runs with mu locked and must not call methods of the table.
func (t *Pools) Change(id uuid.UUID, f func(p *Pool)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.byID[id]
	if p == nil {
		return
	}
	next := *p
	f(&next)
	t.byID[id] = &next
	log, was, is := t.Log.WithField("pool", next.Name), p.QuarantineReason(), next.QuarantineReason()
	switch {
	case is != "" && was == "":
		log.Error("pool is held: " + is)
	case is == "" && was != "":
		log.Info("pool is no longer held")
	}
}

// UpdateRecord changes the record of a pool, first on disk and then in memory.
func (t *Pools) UpdateRecord(ctx context.Context, id uuid.UUID, f func(rec *Record)) error {
	t.recording.Lock()
	defer t.recording.Unlock()
	p := t.ByID(id)
	if p == nil || p.Gone {
		return unknownPool(id)
	}
	rec := p.Record
	f(&rec)
	if err := t.DB.Put(ctx, map[string]any{"pools/" + p.Name: rec}); err != nil {
		return fmt.Errorf("pool %s: %w", p.Name, err)
	}
	t.Change(id, func(p *Pool) { p.Record = rec })
	return nil
}

// Add adds a pool to the table, at its position in the order. The order must be the same after a restart, because
// control puts a dataset on the first pool that fits.
func (t *Pools) Add(p *Pool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if was := t.byID[p.ID]; was == nil || was.Gone {
		t.Order = append(t.Order, p.ID)
	} else if was.Record.Path != p.Record.Path { // at the same path, it is a pool whose creation was interrupted
		if err := was.Opening.discard(); err != nil {
			t.Log.WithError(err).WithField("pool", p.Name).Warn("pool was not closed at its previous place")
		}
	}
	t.byID[p.ID] = p
	slices.SortFunc(t.Order, func(x, y uuid.UUID) int { return t.compare(t.byID[x], t.byID[y]) })
}

// compare orders pools: those of drover.yaml first, in its order, then the default pool, then the others by name.
func (t *Pools) compare(x, y *Pool) int {
	place := func(o *Pool) int {
		i := slices.IndexFunc(t.Configured, func(c Config) bool { return c.Name == o.Name })
		switch {
		case i >= 0:
			return i
		case o.Default:
			return len(t.Configured)
		}
		return len(t.Configured) + 1
	}
	return cmp.Or(cmp.Compare(place(x), place(y)), cmp.Compare(x.Name, y.Name))
}

// IsDoubtful reports whether an incoming dataset of a pool may have been acknowledged to the user who requested it.
func (t *Pools) IsDoubtful(pool, id uuid.UUID) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	p := t.byID[pool]
	return p != nil && (p.Record.Unexamined || slices.Contains(p.Record.Doubtful, id))
}

// MarkAllDoubtful marks all incoming datasets of a pool as doubtful.
func (t *Pools) MarkAllDoubtful(ctx context.Context, pool uuid.UUID) error {
	return t.MarkDoubtful(ctx, pool, true, nil)
}

// MarkDoubtful records which incoming datasets of a pool may have been acknowledged: those in ids, or all of them.
func (t *Pools) MarkDoubtful(ctx context.Context, pool uuid.UUID, all bool, ids []uuid.UUID) error {
	return t.UpdateRecord(ctx, pool, func(rec *Record) { rec.Unexamined, rec.Doubtful = all, ids })
}
