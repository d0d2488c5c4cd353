package agent

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// The next difference to a copy rests on a snapshot that its home and the copy both have. A
// move takes those to the next home: otherwise each copy would begin anew there.

// movedBases are what copies of a dataset rest on, as a move brings it to the next home. The
// copies go on meanwhile, and keep what their home has.
type movedBases struct {
	move      uuid.UUID
	snapshots []uuid.UUID
}

// restsOn returns the snapshot of an entry that the next difference to a copy rests on: the
// one that the copy has as its newest or, where that did not come here with a move, the
// newest one before it that was taken for its node.
func restsOn(e backends.Entry, c dataset.Copy) (dataset.Snapshot, bool) {
	if !c.Whole() {
		return dataset.Snapshot{}, false
	}
	if i := indexOf(e, c.Snapshot); i >= 0 {
		return e.Snapshots[i], true
	}
	return newest(e, func(s dataset.Snapshot) bool {
		return s.Kind == dataset.SnapshotTransfer && s.Request == c.Node && s.At().Compare(c.At()) <= 0
	})
}

// Bases implements transfer.Source. What copies rest on is kept until the move is over.
func (s sending) Bases(ctx context.Context, ds uuid.UUID) (ids []uuid.UUID) {
	a := s.a
	d, home := a.cache.dataset(ds)
	if !home {
		return nil
	}
	v, err := a.Control.Volume(ctx, ds.String())
	if err != nil || v.Move == uuid.Nil {
		return nil // a replica that finds none begins anew: nothing waits for that
	}
	pool, err := a.pools.online(ctx, d.Pool)
	if err != nil {
		return nil
	}
	e, err := pool.Stat(ctx, ds)
	if err != nil {
		return nil
	}
	for _, k := range v.Kept {
		if k.Node == asker(ctx) {
			continue
		}
		if s, rests := restsOn(e, k.Copy); rests {
			ids = append(ids, s.ID)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bases[ds] = movedBases{v.Move, ids}
	return ids
}

// basesOf returns what a move under way brings to the next home for other copies; of one
// that is over, nothing.
func (a *Agent) basesOf(ds, move uuid.UUID) []uuid.UUID {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := a.bases[ds]
	if b.move != move {
		delete(a.bases, ds)
		return nil
	}
	return b.snapshots
}
