package pool

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
)

// RaiseEvery is the interval at which the generation of a pool in use is raised. A raise costs some flushes of the
// disk. While any control replica has not been asked since the start, the generation of a pool is raised only if the
// last raise was at least RaiseEvery ago: see pooladmin.Keeper.
const RaiseEvery = 10 * time.Minute

// MarkUsed records that something in the pool is in use or has changed.
func (t *Pools) MarkUsed(id uuid.UUID) {
	t.Change(id, func(p *Pool) { p.UsedSinceRaise = true })
}

// MarkChanged is like MarkUsed. It is for changes that are rare or that write to control's store anyway, so that the
// raised generation is stored too. home is true if the pool became the home of a dataset: its generation must then be
// raised soon.
func (t *Pools) MarkChanged(id uuid.UUID, home bool) {
	t.Change(id, func(p *Pool) {
		p.UsedSinceRaise, p.changedSinceRaise, p.RaiseSoon = true, true, p.RaiseSoon || home
	})
}

// RecordGeneration records the highest generation that control or a peer reported for a pool.
func (t *Pools) RecordGeneration(ctx context.Context, id uuid.UUID, generation uint64) error {
	p := t.ByID(id)
	if p == nil || p.Record.Generation >= generation {
		return nil
	}
	return t.UpdateRecord(ctx, id, func(rec *Record) { rec.Generation = max(rec.Generation, generation) })
}

// Raise gives a pool a later generation, first in the pool itself. Once the pool has it, the generation is recorded
// even if ctx has ended. If it were not recorded, and the disk were replaced by a copy from before the raise while the
// agent is stopped, the next start would not notice that.
func (t *Pools) Raise(ctx context.Context, p *Pool, to uint64) error {
	var was Pool // a change during the raise counts for the next raise
	t.Change(p.ID, func(p *Pool) {
		was, p.RaiseSoon, p.UsedSinceRaise, p.changedSinceRaise = *p, false, false, false
	})
	unlock, err := t.identities.Lock(ctx, p.ID, "raise of pool "+p.Name)
	if err == nil {
		err = p.Storage.Raise(to)
		unlock()
	}
	if err != nil {
		t.Change(p.ID, func(p *Pool) {
			p.RaiseSoon = p.RaiseSoon || was.RaiseSoon
			p.UsedSinceRaise = p.UsedSinceRaise || was.UsedSinceRaise
			p.changedSinceRaise = p.changedSinceRaise || was.changedSinceRaise
		})
		return WithPoolName(p.Name, err)
	}
	t.Change(p.ID, func(p *Pool) {
		p.RaiseUnreported = p.RaiseUnreported || was.RaiseSoon || was.changedSinceRaise
		p.Generation, p.RaisedAt = max(p.Generation, to), t.Clock.Steady()
	})
	return t.RecordGeneration(context.WithoutCancel(ctx), p.ID, to)
}

// Generations returns the generations of the pools that are not offline.
func (t *Pools) Generations() map[uuid.UUID]uint64 {
	out := map[uuid.UUID]uint64{}
	for _, p := range t.All() {
		if p.Storage != nil {
			out[p.ID] = p.Generation
		}
	}
	return out
}

// GenerationsKnown reports whether control has reported a generation for every open pool.
func (t *Pools) GenerationsKnown() bool {
	return !slices.ContainsFunc(t.All(), func(p *Pool) bool { return p.Storage != nil && !p.GenerationKnown })
}
