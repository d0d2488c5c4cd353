package host

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// IndexOf returns the index of a snapshot in an entry, or -1.
func IndexOf(e backends.Entry, id uuid.UUID) int {
	return slices.IndexFunc(e.Snapshots, func(s dataset.Snapshot) bool { return s.ID == id })
}

// Newest returns the latest snapshot of an entry for which want returns true. found is false if there is none.
func Newest(e backends.Entry, want func(dataset.Snapshot) bool) (last dataset.Snapshot, found bool) {
	for _, s := range e.Snapshots {
		if want(s) && (!found || s.At().Compare(last.At()) >= 0) {
			last, found = s, true
		}
	}
	return last, found
}

// Promotable returns the newest snapshot of a copy that a volume can continue from. A superseded snapshot is not
// eligible. The state that a restore replaced is not eligible either, because choosing it would undo the restore.
func Promotable(e backends.Entry) (dataset.Snapshot, bool) {
	return Newest(e, func(s dataset.Snapshot) bool {
		return s.Kind != dataset.SnapshotSuperseded && s.Kind != dataset.SnapshotRestore
	})
}

// IsTransfer reports whether a snapshot was taken to be sent to another node.
func IsTransfer(s dataset.Snapshot) bool { return s.Kind == dataset.SnapshotTransfer }

// IsShared reports whether a snapshot was taken for all replicas.
func IsShared(s dataset.Snapshot) bool {
	return s.Kind == dataset.SnapshotTransfer && s.Request == uuid.Nil
}

// HasSeveralReplicas reports whether a dataset has more than one replica, so that they need shared snapshots.
func HasSeveralReplicas(d dataset.Dataset) bool { return len(d.Followers()) > 1 }

// IsRefresh reports whether a node that requests a snapshot refreshes its replica. Otherwise the request
// belongs to a move.
func IsRefresh(d dataset.Dataset, node uuid.UUID) bool {
	return d.Move == uuid.Nil && slices.Contains(d.Followers(), node)
}

// SnapshotRecipient returns the node that a snapshot is taken for. That is the node that requests it, or uuid.Nil for
// all replicas. A snapshot is taken for all replicas if the request is a refresh, the dataset has several replicas, and
// the last snapshot for all replicas in this epoch is at least sharedEvery refresh intervals old, or there is none.
func SnapshotRecipient(d dataset.Dataset, e backends.Entry, node uuid.UUID, now time.Time) uuid.UUID {
	if !IsRefresh(d, node) || !HasSeveralReplicas(d) {
		return node
	}
	last, shared := Newest(e, func(s dataset.Snapshot) bool { return IsShared(s) && s.Epoch == d.Epoch })
	// The age is an absolute value, because the clock may have been set back.
	if shared && now.Sub(last.Created).Abs() < sharedEvery*time.Duration(d.Profile.Replicas.Every) {
		return node
	}
	return uuid.Nil
}

// SharedBefore returns the newest snapshot for all replicas that is not later than a moment.
func SharedBefore(e backends.Entry, at dataset.Moment) (dataset.Snapshot, bool) {
	return Newest(e, func(s dataset.Snapshot) bool { return IsShared(s) && s.At().Compare(at) <= 0 })
}

// BaseOf returns the snapshot of an entry that is the base of the next difference to a copy. It is the newest snapshot
// of the copy, if this node has that snapshot. Otherwise, as after a move that did not bring it here, it is the newest
// earlier snapshot that was taken for the node of the copy or for all replicas.
func BaseOf(e backends.Entry, c dataset.Copy) (dataset.Snapshot, bool) {
	if !c.Promotable() {
		return dataset.Snapshot{}, false
	}
	if i := IndexOf(e, c.Snapshot); i >= 0 {
		return e.Snapshots[i], true
	}
	return Newest(e, func(s dataset.Snapshot) bool {
		return s.Kind == dataset.SnapshotTransfer && (s.Request == c.Node || IsShared(s)) && s.At().Compare(c.At()) <= 0
	})
}

// NearestBase chooses the base of the last snapshot s of a move: s is sent as the difference from its base. e is the
// dataset in the pool, and has are the snapshots that the target has or is receiving. There are three candidates: the
// newest snapshot in has, the parent of s, and the newest snapshot that control records (see IsInternal), which the
// target receives before s. NearestBase returns the candidate with the smallest difference, or uuid.Nil if s descends
// from no candidate. It fails with ErrUnsupported if the pool can send no snapshots.
func NearestBase(
	ctx context.Context, pool backends.Pool, e backends.Entry, s dataset.Snapshot, has []dataset.Snapshot,
) (base uuid.UUID, err error) {
	sender, ok := pool.(backends.Sender)
	if !ok {
		return base, dataset.Errorf(dataset.ErrUnsupported, "the pool cannot send snapshots")
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
		from := dataset.Source{Dataset: s.Dataset, Snapshot: o.ID}
		c, err := sender.Changed(ctx, from, dataset.Source{Dataset: s.Dataset, Snapshot: s.ID})
		if errors.Is(err, dataset.ErrUnsupported) {
			continue // s does not descend from it
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

// LatestFor returns the newest snapshot that was taken for the node peer, and whether that snapshot equals the head. It
// returns the zero value and false if there is none. If the pool cannot compare them, current is false. For a refresh,
// snapshots that were taken for other nodes count too. Snapshots of an earlier epoch do not count, because a copy is
// recorded with the epoch of its newest snapshot.
func LatestFor(
	ctx context.Context, pool backends.Pool, d dataset.Dataset, e backends.Entry, peer uuid.UUID,
) (last dataset.Snapshot, current bool) {
	last, found := Newest(e, func(s dataset.Snapshot) bool {
		// A snapshot of an earlier epoch was brought here as the base of the next difference.
		return s.Kind == dataset.SnapshotTransfer && (s.Request == peer || IsRefresh(d, peer)) && s.Epoch == d.Epoch
	})
	sender, ok := pool.(backends.Sender)
	if !found || !ok || last.Epoch != d.Epoch {
		return last, false
	}
	same, err := sender.Same(ctx, d.ID, last.ID, uuid.Nil)
	return last, err == nil && same
}

// NeededBy returns the snapshots of an entry that the recorded copies of a volume or a running move need: the newest
// snapshot of each copy, the bases of the next differences, the shared snapshots, and the newest snapshot that was
// taken for another node.
func NeededBy(e backends.Entry, v api.Volume) map[uuid.UUID]bool {
	needed := map[uuid.UUID]bool{}
	for _, k := range v.CopyDetails {
		needed[k.Snapshot] = true
		if s, rests := BaseOf(e, k.Copy); rests {
			needed[s.ID] = true
		}
		if s, shared := SharedBefore(e, k.At()); shared && k.Promotable() && HasSeveralReplicas(v.Dataset) {
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

// IsInternal reports whether a snapshot is only stored beside the data and never in control's store: it was taken
// to be sent to another node, or it is a superseded head.
func IsInternal(s dataset.Snapshot) bool {
	return s.Kind == dataset.SnapshotTransfer || s.Kind == dataset.SnapshotSuperseded
}

// DropMissing removes the snapshots in gone, which the source of a copy no longer has. Superseded snapshots stay until
// a person discards them. The argument last is the newest snapshot that the source sends.
//
// A home keeps the newest snapshots that it sent to copies. So if a missing transfer snapshot is of the same epoch as
// last, and newer, the disk of the home was probably restored from an older state. DropMissing then removes nothing and
// returns ErrConflict.
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
		return dataset.Errorf(dataset.ErrConflict,
			"snapshot %s exists here, and the home has nothing as recent: its disk may have been restored from "+
				"an older state (drover pool ls; with drover stopped there, drover volume move --force --fenced "+
				"continues from here)",
			later.ID)
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

// UnrecordedLoss returns the newest snapshot of a copy if the volume has continued without the data of that snapshot,
// and control has not recorded that yet. Such a snapshot is kept, like that of a superseded head. Otherwise keep is
// the zero value.
func UnrecordedLoss(ctx context.Context, pool backends.Pool, k api.AssignedCopy) (keep dataset.Snapshot, err error) {
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

// FinalSnapshotID returns the UUID of the last snapshot of a move. It depends only on the move.
func FinalSnapshotID(move uuid.UUID) uuid.UUID { return uuid.NewSHA1(move, []byte("final")) }

// SnapshotIDs lists the snapshots that a pool has of a dataset. If the dataset is absent, the list is empty.
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

// sharedEvery is how many refresh intervals pass between two snapshots that are taken for all replicas.
const sharedEvery = 4
