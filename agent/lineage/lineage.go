package lineage

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/google/uuid"
)

func IndexOf(e backends.Entry, id uuid.UUID) int {
	return slices.IndexFunc(e.Snapshots, func(s dataset.Snapshot) bool { return s.ID == id })
}

// Newest returns the latest snapshot of an entry that is wanted.
func Newest(e backends.Entry, want func(dataset.Snapshot) bool) (last dataset.Snapshot, found bool) {
	for _, s := range e.Snapshots {
		if want(s) && (!found || s.At().Compare(last.At()) >= 0) {
			last, found = s, true
		}
	}
	return last, found
}

// Best returns the newest snapshot of a copy that a volume can go on from. What a restore
// replaced is none: the restore would be undone.
func Best(e backends.Entry) (dataset.Snapshot, bool) {
	return Newest(e, func(s dataset.Snapshot) bool {
		return s.Kind != dataset.SnapshotSuperseded && s.Kind != dataset.SnapshotRestore
	})
}

func IsTransfer(s dataset.Snapshot) bool { return s.Kind == dataset.SnapshotTransfer }

// IsShared reports whether a snapshot was taken for all replicas.
func IsShared(s dataset.Snapshot) bool {
	return s.Kind == dataset.SnapshotTransfer && s.Request == uuid.Nil
}

// HasSeveralReplicas reports whether a dataset has replicas that are to have something in common.
func HasSeveralReplicas(d dataset.Dataset) bool { return len(d.Followers()) > 1 }

// IsRefresh reports whether a node asks for a snapshot to refresh its replica with, and not
// to move the dataset.
func IsRefresh(d dataset.Dataset, node uuid.UUID) bool {
	return d.Move == uuid.Nil && slices.Contains(d.Followers(), node)
}

// TakenFor returns whom a snapshot is taken for that a node asks for; nil: all replicas.
func TakenFor(d dataset.Dataset, e backends.Entry, node uuid.UUID, now time.Time) uuid.UUID {
	if !IsRefresh(d, node) || !HasSeveralReplicas(d) {
		return node
	}
	last, shared := Newest(e, func(s dataset.Snapshot) bool { return IsShared(s) && s.Epoch == d.Epoch })
	if shared && now.Sub(last.Created).Abs() < sharedEvery*time.Duration(d.Profile.Replicas.Every) { // or the clock was set back
		return node
	}
	return uuid.Nil
}

// SharedBefore returns the newest snapshot for all replicas that is not later than a moment.
func SharedBefore(e backends.Entry, at dataset.Moment) (dataset.Snapshot, bool) {
	return Newest(e, func(s dataset.Snapshot) bool { return IsShared(s) && s.At().Compare(at) <= 0 })
}

// BaseOf returns the snapshot of an entry that the next difference to a copy rests on: the
// one that the copy has as its newest or, where that did not come here with a move, the
// newest one before it that was taken for its node, or for all.
func BaseOf(e backends.Entry, c dataset.Copy) (dataset.Snapshot, bool) {
	if !c.Whole() {
		return dataset.Snapshot{}, false
	}
	if i := IndexOf(e, c.Snapshot); i >= 0 {
		return e.Snapshots[i], true
	}
	return Newest(e, func(s dataset.Snapshot) bool {
		return s.Kind == dataset.SnapshotTransfer && (s.Request == c.Node || IsShared(s)) && s.At().Compare(c.At()) <= 0
	})
}

// NearestBase chooses what the last snapshot is sent as a difference to, of those that the
// target has or gets before it: the newest that it was given, the newest of people and
// schedules, and the one that the head went on from; none, where its pool sends it as a difference
// to none of them.
func NearestBase(ctx context.Context, pool backends.Pool, e backends.Entry, s dataset.Snapshot, has []dataset.Snapshot) (base uuid.UUID, err error) {
	sender, ok := pool.(backends.Sender)
	if !ok {
		return base, dataset.Errorf(dataset.ErrUnsupported, "the pool sends no snapshots")
	}
	best := int64(-1)
	for _, fits := range []func(dataset.Snapshot) bool{
		func(o dataset.Snapshot) bool { return IndexOf(backends.Entry{Snapshots: has}, o.ID) >= 0 },
		func(o dataset.Snapshot) bool { return !IsInternal(o) },
		func(o dataset.Snapshot) bool { return o.ID == s.Parent },
	} {
		o, found := Newest(e, func(o dataset.Snapshot) bool { return o.ID != s.ID && fits(o) })
		if !found || o.ID == base {
			continue
		}
		c, err := sender.Changed(ctx, dataset.Source{Dataset: s.Dataset, Snapshot: o.ID}, dataset.Source{Dataset: s.Dataset, Snapshot: s.ID})
		if errors.Is(err, dataset.ErrUnsupported) {
			continue // it is none that this one came of
		}
		if err != nil {
			return base, err
		}
		if best < 0 || c.Bytes < best {
			base, best = o.ID, c.Bytes
		}
	}
	return base, nil
}

// CurrentFor returns the newest snapshot that was taken for a node, for a refresh also that of
// another, and whether it has all that the head has. One of an earlier epoch counts as less: a
// copy is on record by its epoch.
func CurrentFor(ctx context.Context, pool backends.Pool, d dataset.Dataset, e backends.Entry, peer uuid.UUID) (last dataset.Snapshot, current bool) {
	last, given := Newest(e, func(s dataset.Snapshot) bool {
		return s.Kind == dataset.SnapshotTransfer && (s.Request == peer || IsRefresh(d, peer)) && s.Epoch == d.Epoch // one of before came here for the next difference
	})
	sender, ok := pool.(backends.Sender)
	if !given || !ok || last.Epoch != d.Epoch {
		return last, false
	}
	same, err := sender.Same(ctx, d.ID, last.ID, uuid.Nil)
	return last, err == nil && same
}

// NeededBy returns which snapshots the copies on record of a volume need.
func NeededBy(e backends.Entry, v api.Volume) map[uuid.UUID]bool {
	needed := map[uuid.UUID]bool{}
	for _, k := range v.Kept {
		needed[k.Snapshot] = true
		if s, rests := BaseOf(e, k.Copy); rests {
			needed[s.ID] = true
		}
		if s, shared := SharedBefore(e, k.At()); shared && k.Whole() && HasSeveralReplicas(v.Dataset) {
			needed[s.ID] = true
		}
	}
	last, _ := Newest(e, IsTransfer)
	needed[last.ID] = needed[last.ID] || v.Move != uuid.Nil || len(v.Copies) > 0
	if last, shared := Newest(e, IsShared); shared && HasSeveralReplicas(v.Dataset) {
		needed[last.ID] = true
	}
	return needed
}

// IsInternal reports whether a snapshot is never in the store: it lies beside the data for
// copies on other nodes, or is a head that was overtaken.
func IsInternal(s dataset.Snapshot) bool {
	return s.Kind == dataset.SnapshotTransfer || s.Kind == dataset.SnapshotSuperseded
}

// DropMissing removes the snapshots of a copy that its source does not have any more. What was
// overtaken here stays: a person discards it. A home keeps the newest of what it gave to copies:
// where one is gone that is later than the last that it gives, of one epoch, nothing goes, and
// it is ErrConflict.
func DropMissing(ctx context.Context, pool backends.Pool, id uuid.UUID, gone []uuid.UUID, last dataset.Snapshot) error {
	if len(gone) == 0 {
		return nil
	}
	e, err := pool.Stat(ctx, id)
	if err != nil {
		return err
	}
	later, lost := Newest(e, func(s dataset.Snapshot) bool {
		return IsTransfer(s) && s.Epoch == last.Epoch && s.At().Compare(last.At()) > 0 && slices.Contains(gone, s.ID)
	})
	if lost {
		return dataset.Errorf(dataset.ErrConflict, "snapshot %s is here, and the home gives nothing as late: its disk may have been put back to an older state (drover pool ls; with drover stopped there drover volume move --force --fenced goes on from here)", later.ID)
	}
	for _, s := range e.Snapshots {
		if !slices.Contains(gone, s.ID) || s.Kind == dataset.SnapshotSuperseded {
			continue
		}
		if err := pool.DeleteSnapshot(ctx, id, s.ID); err != nil {
			return err
		}
	}
	return nil
}

// Lost returns the newest snapshot of a copy when it is of what the volume went on without,
// and control has not heard so: it is kept as a head that was overtaken is.
func Lost(ctx context.Context, pool backends.Pool, k api.Kept) (keep dataset.Snapshot, err error) {
	if k.Kind == dataset.CopySuperseded || k.Record == nil {
		return keep, nil
	}
	e, err := pool.Stat(ctx, k.Dataset)
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return keep, err
	}
	if s, found := Newest(e, func(dataset.Snapshot) bool { return true }); found && k.Record.Lost(s) {
		keep = s
	}
	return keep, nil
}

// FinalID is the last snapshot's of a move: the same one whenever it is asked for.
func FinalID(move uuid.UUID) uuid.UUID { return uuid.NewSHA1(move, []byte("final")) }

// SnapshotIDs lists the snapshots that a pool has of a dataset: none of one that is absent.
func SnapshotIDs(ctx context.Context, pool backends.Pool, id uuid.UUID) (have []uuid.UUID, err error) {
	e, err := pool.Stat(ctx, id)
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return nil, err
	}
	for _, s := range e.Snapshots {
		have = append(have, s.ID)
	}
	return have, nil
}

// sharedEvery is how many times as long as a replica is not refreshed there is no new
// snapshot for all of them.
const sharedEvery = 4
