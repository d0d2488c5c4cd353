package pool

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
)

// RaiseEvery is the interval at which the generation of a pool in use is raised. A raise costs some flushes of the
// disk. A raise also waits for this time until control replicas that were not asked since the start have answered.
const RaiseEvery = 10 * time.Minute

// MarkUsed records that something in the pool is in use or has changed.
func (t *table) MarkUsed(id uuid.UUID) {
	t.Change(id, func(op *Pool) { op.UsedSinceRaise = true })
}

// MarkChanged is like MarkUsed. It is for changes that are rare or that write to control's store anyway, so that the
// raised generation is stored too. home is true if the pool became the home of a dataset: its generation must then be
// raised soon.
func (t *table) MarkChanged(id uuid.UUID, home bool) {
	t.Change(id, func(op *Pool) {
		op.UsedSinceRaise, op.changedSinceRaise, op.RaiseSoon = true, true, op.RaiseSoon || home
	})
}

// RecordGeneration records the highest generation that control or a peer reported for a pool.
func (t *table) RecordGeneration(ctx context.Context, id uuid.UUID, generation uint64) error {
	op := t.ByID(id)
	if op == nil || op.Record.Generation >= generation {
		return nil
	}
	return t.UpdateRecord(ctx, id, func(rec *Record) { rec.Generation = max(rec.Generation, generation) })
}

// Raise gives a pool a later generation, first in the pool itself.
func (t *table) Raise(ctx context.Context, op *Pool, to uint64) error {
	var was Pool // a change during the raise counts for the next raise
	t.Change(op.ID, func(op *Pool) {
		was, op.RaiseSoon, op.UsedSinceRaise, op.changedSinceRaise = *op, false, false, false
	})
	unlock, err := t.identities.Lock(ctx, op.ID, "raise of pool "+op.Name)
	if err == nil {
		err = op.Storage.Raise(to)
		unlock()
	}
	if err != nil {
		t.Change(op.ID, func(op *Pool) {
			op.RaiseSoon = op.RaiseSoon || was.RaiseSoon
			op.UsedSinceRaise = op.UsedSinceRaise || was.UsedSinceRaise
			op.changedSinceRaise = op.changedSinceRaise || was.changedSinceRaise
		})
		return WithPoolName(op.Name, err)
	}
	t.Change(op.ID, func(op *Pool) {
		op.RaiseUnreported = op.RaiseUnreported || was.RaiseSoon || was.changedSinceRaise
		op.Generation, op.RaisedAt = max(op.Generation, to), t.Clock.Steady()
	})
	return t.RecordGeneration(ctx, op.ID, to)
}

// Generations returns the generations of the pools that are not offline.
func (t *table) Generations() map[uuid.UUID]uint64 {
	out := map[uuid.UUID]uint64{}
	for _, op := range t.All() {
		if op.Storage != nil {
			out[op.ID] = op.Generation
		}
	}
	return out
}

// GenerationsKnown reports whether control has reported a generation for every open pool.
func (t *table) GenerationsKnown() bool {
	return !slices.ContainsFunc(t.All(), func(op *Pool) bool { return op.Storage != nil && !op.GenerationKnown })
}
