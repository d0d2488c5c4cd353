package move

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// TransferSource provides the data for other nodes: it is the Source of this node. It has no state. Its
// methods are safe for concurrent use.
type TransferSource struct{ *Moves }

var _ Source = (*TransferSource)(nil)

// Authorize implements Source. If the lease of the dataset is bounded in time, it records the node on disk first. The
// errors are those of Access.Check and lease.Deadlines.Enrol.
func (v *TransferSource) Authorize(ctx context.Context, peer, ds uuid.UUID) error {
	if err := v.Access.Check(ctx, peer, ds); err != nil {
		return err
	}
	return v.Leases.Deadlines.Enrol(ctx, ds, peer)
}

// Pool implements Source. It fails with ErrNotFound if this node has no data of the dataset.
func (v *TransferSource) Pool(ctx context.Context, ds uuid.UUID) (backends.Pool, error) {
	d, known := v.Cache.Dataset(ds)
	if known {
		return v.poolForSending(ctx, d.Pool)
	}
	k, kept := v.Cache.Copy(ds)
	if !kept {
		return nil, dataset.Errorf(dataset.ErrNotFound, "dataset %s is not on node %s", ds, v.NodeName)
	}
	return v.poolForSending(ctx, k.Pool)
}

// poolForSending returns a pool from which data may be sent to another node. Nothing is sent before control has
// reported the generation of the pool. A pool that was restored from a backup may lack data that the other node has,
// and the other node would drop that data because the home lacks it. Containers on this node can use the pool
// earlier.
func (v *TransferSource) poolForSending(ctx context.Context, id uuid.UUID) (backends.Pool, error) {
	isKnown := func() bool { p := v.Pools.ByID(id); return p == nil || p.GenerationKnown }
	if !isKnown() {
		if _, err := v.generations.Ask(ctx); !isKnown() {
			return nil, dataset.Errorf(dataset.ErrUnavailable,
				"pool %s sends nothing to other nodes before control has confirmed its generation: %w",
				v.Pools.Name(id), cmp.Or(err, errUnknownPool))
		}
	}
	return v.Pools.Online(ctx, id)
}

// errUnknownPool says that control has no record of a pool as one of this node.
var errUnknownPool = errors.New("it does not know the pool")

// TakeSnapshot takes a snapshot for the node that sends the request. If nothing was written since an earlier snapshot
// that was sent to that node, or to another replica, TakeSnapshot returns the earlier one. For a relinquished dataset
// it returns the final snapshot, and fails with ErrPending before that exists. It fails with ErrNotFound if this node
// is not the home, and with ErrNoSpace if the pool has too little space (host.CheckTight).
//
// have lists the snapshots that the other node has. TakeSnapshot keeps the newest of them, because control's record of
// that node's copy may be older. idle is true if the dataset has no use. It is false for a relinquished dataset,
// whose uses do not matter any more.
func (v *TransferSource) TakeSnapshot(ctx context.Context, ds uuid.UUID, have []uuid.UUID) (out dataset.Snapshot,
	idle bool,
	err error) {
	// The pool may take long to answer, so it is asked before the dataset is locked.
	if _, err := v.Pool(ctx, ds); err != nil {
		return out, false, err
	}
	unlock, err := v.Locks.Lock(ctx, ds, "snapshot for another node of dataset "+ds.String())
	if err != nil {
		return out, false, err
	}
	defer unlock()
	d, known := v.Cache.Dataset(ds)
	if !known || d.State == dataset.StatePurging {
		return out, false, dataset.Errorf(dataset.ErrNotFound, "the home of dataset %s is not node %s", ds, v.NodeName)
	}
	pool, err := v.Pools.Online(ctx, d.Pool)
	if err != nil {
		return out, false, err
	}
	e, err := pool.Stat(ctx, ds)
	if err != nil {
		return out, false, err
	}
	if y, relinquished := v.Leases.Relinquished(ds); relinquished && d.Epoch <= y.Epoch {
		if y.Manifest != nil {
			if i := host.IndexOf(e, y.Manifest.Snapshot); i >= 0 {
				return e.Snapshots[i], false, nil
			}
		}
		return out, false, dataset.Errorf(dataset.ErrPending, "volume %s is being relinquished", d.Volume)
	}
	if err := host.CheckTight(ctx, pool, d); err != nil {
		return out, false, err
	}
	in, end, err := v.Quiescer.Prepare(ctx, pool, d)
	if err != nil {
		return out, false, err
	}
	out, err = v.freshSnapshot(in, pool, d, e)
	end()
	if err != nil {
		return out, false, fmt.Errorf("snapshot of volume %s for another node: %w", d.Volume, err)
	}
	had, _ := host.Newest(e, func(s dataset.Snapshot) bool { return slices.Contains(have, s.ID) })
	v.Retention.Sent.Record(d, e, requester(ctx), had, out, v.Clock.Steady())
	v.Retention.PruneSoon(ds)
	return out, len(v.Uses.Get(ds).IDs) == 0, nil
}

func (v *TransferSource) freshSnapshot(ctx context.Context, pool backends.Pool, d dataset.Dataset,
	e backends.Entry) (dataset.Snapshot, error) {
	peer, now := requester(ctx), v.Clock.Now()
	if last, current := host.LatestFor(ctx, pool, d, e, peer); current {
		return last, nil
	}
	s := v.Sizes.WithActualSize(v.TransferSnapshot(d, uuid.New(), host.SnapshotRecipient(d, e, peer, now))).
		TakenAfter(e.Snapshots, now)
	err := pool.Snapshot(ctx, s, nil)
	if err != nil {
		err = errors.Join(err, host.DiscardSnapshot(ctx, pool, s))
	}
	return s, err
}

// OpenTree opens the files of a snapshot, or those of the dataset if snapshot is uuid.Nil. It fails with ErrConflict
// unless this node has relinquished the dataset.
func (v *TransferSource) OpenTree(ctx context.Context, ds, snapshot uuid.UUID) (root *os.File, release func() error,
	err error) {
	d, known := v.Cache.Dataset(ds)
	if !known {
		return nil, nil, dataset.Errorf(dataset.ErrNotFound, "the home of dataset %s is not node %s", ds, v.NodeName)
	}
	pool, err := v.poolForSending(ctx, d.Pool)
	if err != nil {
		return nil, nil, err
	}
	// While users write, a reader of the files would make the snapshot and its clone keep what they overwrite.
	if y, relinquished := v.Leases.Relinquished(ds); !relinquished || d.Epoch > y.Epoch {
		return nil, nil, dataset.Errorf(dataset.ErrConflict, "volume %s has not been relinquished: its files may "+
			"change", d.Volume)
	}
	if snapshot == uuid.Nil {
		root, err = mounting.OpenRoot(ctx, pool, ds)
		return root, func() error { return nil }, err
	}
	return v.OpenSnapshot(ctx, pool, d, snapshot)
}

// OpenSnapshot opens the files of a snapshot through a temporary clone.
func (v *TransferSource) OpenSnapshot(ctx context.Context, pool backends.Pool, d dataset.Dataset,
	snapshot uuid.UUID) (*os.File, func() error, error) {
	scratch := d
	scratch.ID, scratch.Size = uuid.New(), 0
	end := v.Keys.BorrowKey(scratch.ID, d.ID)
	release := func() error {
		defer end()
		return host.Discard(ctx, v.Host, pool, scratch.ID)
	}
	if _, err := pool.Clone(ctx, scratch, dataset.Source{Dataset: d.ID, Snapshot: snapshot}, nil); err != nil {
		return nil, nil, errors.Join(err, release())
	}
	root, err := mounting.OpenRoot(ctx, pool, scratch.ID)
	if err != nil {
		return nil, nil, errors.Join(err, release())
	}
	return root, release, nil
}

// GuardSpace implements Source. After it has ended work, it removes the dataset's snapshots for other nodes. Nobody
// writes to a copy or to a relinquished dataset, so their transfers do not end.
func (v *TransferSource) GuardSpace(ctx context.Context, pool backends.Pool, ds uuid.UUID,
	work func(context.Context) error) error {
	if _, home := v.Cache.Dataset(ds); !home {
		return work(ctx)
	}
	full := false
	err := v.KeepReserve(ctx, pool, dataset.Source{Dataset: ds}, func(ctx context.Context) error {
		defer func() { full = errors.Is(context.Cause(ctx), dataset.ErrNoSpace) }()
		return work(ctx)
	})
	if full {
		v.Retention.dropSoon(false, ds)
	}
	return err
}

// SharedSnapshots implements Source.
func (v *TransferSource) SharedSnapshots(ctx context.Context, ds, want uuid.UUID) []uuid.UUID {
	pool, err := v.Pool(ctx, ds)
	if err != nil {
		return nil
	}
	e, err := pool.Stat(ctx, ds)
	if err != nil {
		return nil
	}
	i := host.IndexOf(e, want)
	if i < 0 {
		return nil
	}
	if last, shared := host.SharedBefore(e, e.Snapshots[i].At()); shared {
		return []uuid.UUID{last.ID}
	}
	return nil
}

// CopyBases implements Source. The snapshots on which copies are based are kept until the move ends.
func (v *TransferSource) CopyBases(ctx context.Context, ds uuid.UUID) (ids []uuid.UUID) {
	d, home := v.Cache.Dataset(ds)
	if !home {
		return nil
	}
	vol, err := v.Control.Volume(ctx, ds.String())
	if err != nil || vol.Move == uuid.Nil {
		return nil // without the bases, replicas only have to be sent from the beginning
	}
	pool, err := v.Pools.Online(ctx, d.Pool)
	if err != nil {
		return nil
	}
	e, err := pool.Stat(ctx, ds)
	if err != nil {
		return nil
	}
	for _, k := range vol.CopyDetails {
		if k.Node == requester(ctx) {
			continue
		}
		if s, rests := host.BaseOf(e, k.Copy); rests {
			ids = append(ids, s.ID)
		}
	}
	v.Retention.SetBases(ds, vol.Move, ids)
	return ids
}
