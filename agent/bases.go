package agent

import (
	"context"
	"slices"
	"time"

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
// newest one before it that was taken for its node, or for all.
func restsOn(e backends.Entry, c dataset.Copy) (dataset.Snapshot, bool) {
	if !c.Whole() {
		return dataset.Snapshot{}, false
	}
	if i := indexOf(e, c.Snapshot); i >= 0 {
		return e.Snapshots[i], true
	}
	return newest(e, func(s dataset.Snapshot) bool {
		return s.Kind == dataset.SnapshotTransfer && (s.Request == c.Node || isShared(s)) && s.At().Compare(c.At()) <= 0
	})
}

// Of several replicas each is refreshed when it is due, from a snapshot of its own: without
// the home they would have nothing in common, and all but the one that goes on would begin
// anew. So now and then a snapshot is taken for all of them, which each brings along with its
// next refresh, and which the home keeps, and so each of them, until the next one has come, or
// one is left alone.
// What is written over before and after it travels twice: that is why not each is one.

// sharedEvery is how many times as long as a replica is not refreshed there is no new
// snapshot for all of them.
const sharedEvery = 4

// isShared reports whether a snapshot was taken for all replicas.
func isShared(s dataset.Snapshot) bool {
	return s.Kind == dataset.SnapshotTransfer && s.Request == uuid.Nil
}

// several reports whether a dataset has replicas that are to have something in common.
func several(d dataset.Dataset) bool { return len(d.Followers()) > 1 }

// refreshes reports whether a node asks for a snapshot to refresh its replica with, and not
// to move the dataset.
func refreshes(d dataset.Dataset, node uuid.UUID) bool {
	return d.Move == uuid.Nil && slices.Contains(d.Followers(), node)
}

// takenFor returns whom a snapshot is taken for that a node asks for; nil: all replicas.
func takenFor(d dataset.Dataset, e backends.Entry, node uuid.UUID, now time.Time) uuid.UUID {
	if !refreshes(d, node) || !several(d) {
		return node
	}
	last, shared := newest(e, func(s dataset.Snapshot) bool { return isShared(s) && s.Epoch == d.Epoch })
	if shared && now.Sub(last.Created).Abs() < sharedEvery*time.Duration(d.Profile.Replicas.Every) { // or the clock was set back
		return node
	}
	return uuid.Nil
}

// sharedBefore returns the newest snapshot for all replicas that is not later than a moment.
func sharedBefore(e backends.Entry, at dataset.Moment) (dataset.Snapshot, bool) {
	return newest(e, func(s dataset.Snapshot) bool { return isShared(s) && s.At().Compare(at) <= 0 })
}

// Shared implements transfer.Source.
func (s sending) Shared(ctx context.Context, ds, want uuid.UUID) []uuid.UUID {
	pool, err := s.Pool(ctx, ds)
	if err != nil {
		return nil
	}
	e, err := pool.Stat(ctx, ds)
	if err != nil {
		return nil
	}
	i := indexOf(e, want)
	if i < 0 {
		return nil
	}
	if last, shared := sharedBefore(e, e.Snapshots[i].At()); shared {
		return []uuid.UUID{last.ID}
	}
	return nil
}

// Bases implements transfer.Source. What copies rest on is kept until the move is over.
func (s sending) Bases(ctx context.Context, ds uuid.UUID) (ids []uuid.UUID) {
	a := s.a
	d, home := a.Cache.Dataset(ds)
	if !home {
		return nil
	}
	v, err := a.Control.Volume(ctx, ds.String())
	if err != nil || v.Move == uuid.Nil {
		return nil // a replica that finds none begins anew: nothing waits for that
	}
	pool, err := a.pools.Online(ctx, d.Pool)
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
