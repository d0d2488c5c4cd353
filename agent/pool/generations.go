package pool

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// RaiseEvery is how often the generation of a pool that is in use is raised. A raise costs some flushes of the
// disk. A raise waits for the same time for control replicas that were not asked since the start.
const RaiseEvery = 10 * time.Minute

// Held returns why the pool is quarantined; "" if it is not.
func (op *Pool) Held() string {
	if op.Storage == nil || op.Generation >= op.Record.Generation {
		return ""
	}
	return fmt.Sprintf("its generation is %d and was %d: its disk was put back to an older state (bring "+
		"back the newer one, or go on with what it has: drover pool accept %s --confirmed, on node %s)",
		op.Generation, op.Record.Generation, op.Name, op.on)
}

// Free fails with dataset.ErrOffline while the pool is quarantined.
func (op *Pool) free() error {
	if why := op.Held(); why != "" {
		return dataset.Errorf(dataset.ErrOffline, "pool %s is held: %s", op.Name, why)
	}
	return nil
}

// Serves fails with dataset.ErrOffline while the pool is quarantined or offline.
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

// IsDue reports whether the generation of the pool must be raised.
func (op *Pool) IsDue(now time.Duration) bool {
	return op.Serves() == nil && !op.Raising && (op.Due || op.Used && now-op.RaisedAt >= RaiseEvery)
}

// Change changes the state of a pool, and logs when the pool becomes quarantined or is released from quarantine.
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

// Keep changes the record of a pool, first in the agent's database.
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

// Touched records that something in the pool is in use or has changed.
func (p *Pools) Touched(id uuid.UUID) {
	p.Change(id, func(op *Pool) { op.Used = true })
}

// Changed is Touched for changes that write to the store anyway, or that are rare. home says that a dataset got
// its home in the pool, so that the generation is raised soon.
func (p *Pools) Changed(id uuid.UUID, home bool) {
	p.Change(id, func(op *Pool) { op.Used, op.changed, op.Due = true, true, op.Due || home })
}

// One returns a pool, open or not; nil if this node has none with this UUID.
func (p *Pools) One(id uuid.UUID) *Pool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.byID[id]
}

// WasOf records the highest generation that control or a peer reported for a pool.
func (p *Pools) WasOf(ctx context.Context, id uuid.UUID, generation uint64) error {
	op := p.One(id)
	if op == nil || op.Record.Generation >= generation {
		return nil
	}
	return p.Keep(ctx, id, func(rec *Record) { rec.Generation = max(rec.Generation, generation) })
}

// Raise gives a pool a later generation, first in the pool itself.
func (p *Pools) Raise(ctx context.Context, op *Pool, to uint64) error {
	var was Pool // changes made while it is being raised count for the next raise
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

// Generations returns the generations of the pools that are not offline.
func (p *Pools) Generations() map[uuid.UUID]uint64 {
	out := map[uuid.UUID]uint64{}
	for _, op := range p.All() {
		if op.Storage != nil {
			out[op.ID] = op.Generation
		}
	}
	return out
}

// Heard reports whether control has reported the generation of each open pool.
func (p *Pools) Heard() bool {
	return !slices.ContainsFunc(p.All(), func(op *Pool) bool { return op.Storage != nil && !op.Heard })
}
