package pool

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// RaiseEvery is how often a pool that is in use is raised: some flushes of its disk. For so
// long a raise waits for replicas that were not asked since the start.
const RaiseEvery = 10 * time.Minute

// Held says why nothing is done in a pool; empty: it is not held.
func (op *Pool) Held() string {
	if op.Storage == nil || op.Generation >= op.Record.Generation {
		return ""
	}
	return fmt.Sprintf("its generation is %d and was %d: its disk was put back to an older state (bring "+
		"back the newer one, or go on with what it has: drover pool accept %s --confirmed, on node %s)",
		op.Generation, op.Record.Generation, op.Name, op.on)
}

// free fails with ErrOffline while a pool is held.
func (op *Pool) free() error {
	if why := op.Held(); why != "" {
		return dataset.Errorf(dataset.ErrOffline, "pool %s is held: %s", op.Name, why)
	}
	return nil
}

// Serves fails with ErrOffline while a pool is held, or offline.
func (op *Pool) Serves() error {
	if op.Record.Leaving != Staying {
		return dataset.Errorf(dataset.ErrOffline, "pool %s is being removed", op.Name)
	}
	if op.Storage == nil {
		return Offline(op.Name, op.OfflineReason)
	}
	if op.Hung != "" {
		return Offline(op.Name, op.Hung)
	}
	if op.disk.failing != "" {
		return Offline(op.Name, op.disk.failing)
	}
	if op.Late {
		return Offline(op.Name, "it was opened just now, and control is asked whether its disk was put back "+
			"(ask again)")
	}
	return op.free()
}

// IsDue reports whether a pool is to be raised.
func (op *Pool) IsDue(now time.Duration) bool {
	return op.Serves() == nil && !op.Raising && (op.Due || op.Used && now-op.RaisedAt >= RaiseEvery)
}

// Change changes what is known of a pool, and says when it is held, or no more.
func (p *Pools) Change(id uuid.UUID, f func(op *Pool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	op := p.byID[id]
	if op == nil {
		return
	}
	next := *op
	f(&next)
	p.byID[id] = &next
	log, was, is := p.Log.WithField("pool", next.Name), op.Held(), next.Held()
	switch {
	case is != "" && was == "":
		log.Error("pool is held: " + is)
	case is == "" && was != "":
		log.Info("pool is not held any more")
	}
}

// Keep changes what is on record of a pool, on disk first.
func (p *Pools) Keep(ctx context.Context, id uuid.UUID, f func(rec *Record)) error {
	p.recording.Lock()
	defer p.recording.Unlock()
	op := p.One(id)
	if op == nil || op.Gone {
		return notOurs(id)
	}
	rec := op.Record
	f(&rec)
	if err := p.DB.Put(ctx, map[string]any{"pools/" + op.Name: rec}); err != nil {
		return fmt.Errorf("pool %s: %w", op.Name, err)
	}
	p.Change(id, func(op *Pool) { op.Record = rec })
	return nil
}

// Touched says that something in a pool is in use, or another than it was.
func (p *Pools) Touched(id uuid.UUID) {
	p.Change(id, func(op *Pool) { op.Used = true })
}

// Changed is touched by what the store is written for anyway, or seldom; home: a home came
// to the pool, and so it is to be raised soon.
func (p *Pools) Changed(id uuid.UUID, home bool) {
	p.Change(id, func(op *Pool) { op.Used, op.changed, op.Due = true, true, op.Due || home })
}

// One returns a pool, open or not; nil if this node has none with this UUID.
func (p *Pools) One(id uuid.UUID) *Pool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.byID[id]
}

// WasOf takes in of which generation a pool was at most.
func (p *Pools) WasOf(ctx context.Context, id uuid.UUID, generation uint64) error {
	op := p.One(id)
	if op == nil || op.Record.Generation >= generation {
		return nil
	}
	return p.Keep(ctx, id, func(rec *Record) { rec.Generation = max(rec.Generation, generation) })
}

// Raise has a pool be of a later generation: in the pool first.
func (p *Pools) Raise(ctx context.Context, op *Pool, to uint64) error {
	var was Pool // what comes while it is raised counts for the next time
	p.Change(op.ID, func(op *Pool) { was, op.Due, op.Used, op.changed = *op, false, false, false })
	unlock, err := p.identities.Lock(ctx, op.ID, "raise of pool "+op.Name)
	if err == nil {
		err = op.Storage.Raise(to)
		unlock()
	}
	if err != nil {
		p.Change(op.ID, func(op *Pool) {
			op.Due, op.Used, op.changed = op.Due || was.Due, op.Used || was.Used, op.changed || was.changed
		})
		return WithPoolName(op.Name, err)
	}
	p.Change(op.ID, func(op *Pool) {
		op.Unstored = op.Unstored || was.Due || was.changed
		op.Generation, op.RaisedAt = max(op.Generation, to), p.Clock.Steady()
	})
	return p.WasOf(ctx, op.ID, to)
}

// Generations are those of the pools that are not offline.
func (p *Pools) Generations() map[uuid.UUID]uint64 {
	out := map[uuid.UUID]uint64{}
	for _, op := range p.All() {
		if op.Storage != nil {
			out[op.ID] = op.Generation
		}
	}
	return out
}

// Heard reports whether control has said of each pool that is open of which generation it was.
func (p *Pools) Heard() bool {
	return !slices.ContainsFunc(p.All(), func(op *Pool) bool { return op.Storage != nil && !op.Heard })
}
