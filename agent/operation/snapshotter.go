package operation

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// TakeSnapshot takes a snapshot of a dataset, mounted or not.
func (o *Operations) TakeSnapshot(ctx context.Context, jb *host.Job, op *dataset.Operation) (out api.Committed,
	err error) {
	d, pool, unlock, err := o.LockForOperation(ctx, *op, "snapshot")
	defer unlock()
	if err != nil {
		return out, err
	}
	in, again := ctx, isMade(ctx, pool, *op.Snapshot)
	if !again {
		if err := checkLive(d, "snapshot"); err != nil {
			return out, err
		}
		err := o.Pools.CheckRootSpace(ctx)
		if err == nil && op.Snapshot.Kind == dataset.SnapshotScheduled {
			err = host.CheckTight(ctx, pool, d)
		}
		if err != nil {
			return out, fmt.Errorf("snapshot of volume %s: %w", d.Volume, err)
		}
		end, err := o.Reservations.Reserve(ctx, d)
		if err != nil {
			return out, fmt.Errorf("snapshot of volume %s: %w", d.Volume, err)
		}
		defer end()
	}
	steps.At("snapshot.begin")
	// Set the time at which the snapshot is taken. A scheduled one may be late, because this node was down.
	if *op.Snapshot, err = o.WithTimeAndSize(ctx, pool, *op.Snapshot); err != nil {
		return out, fmt.Errorf("snapshot of volume %s: %w", d.Volume, err)
	}
	end := func() bool { return op.Snapshot.Exact }
	if !again {
		if in, end, err = o.Quiescer.Prepare(ctx, pool, d); err != nil {
			return out, err
		}
	}
	jb.Step("taking the snapshot")
	err = pool.Snapshot(in, *op.Snapshot, jb.SetProgress)
	op.Snapshot.Exact = end()
	if err != nil {
		err = fmt.Errorf("snapshot of volume %s: %w", d.Volume, o.Pools.AddHint(ctx, d.Pool, err))
		return out, errors.Join(err, host.DiscardSnapshot(ctx, pool, *op.Snapshot))
	}
	steps.At("snapshot.made")
	if out, err = o.Commit(ctx, op); err != nil && !host.InDoubt(err) {
		return out, errors.Join(err, host.DiscardSnapshot(ctx, pool, *op.Snapshot))
	}
	if err == nil {
		steps.At("snapshot.recorded")
		o.WriteRecord(ctx, pool, *out.Dataset)
	}
	return out, err
}

// DeleteSnapshot destroys a snapshot and then forgets it. The operation is recorded in control. After a crash between
// the two steps, both steps are repeated.
func (o *Operations) DeleteSnapshot(ctx context.Context, jb *host.Job, op *dataset.Operation) (out api.Committed,
	err error) {
	const what = "removal of a snapshot"
	jb.Step("waiting for copies of the snapshot")
	copied, err := o.Snapshots.Lock(ctx, op.Snapshot.ID, what) // see LockSource
	if err != nil {
		return out, err
	}
	defer copied()
	d, pool, unlock, err := o.LockForOperation(ctx, *op, what)
	defer unlock()
	if err != nil {
		return out, err
	}
	if err := o.Trust.Err(); err != nil {
		return out, err
	}
	steps.At("snapshot-delete.begin")
	jb.Step("removing the snapshot")
	if err := pool.DeleteSnapshot(ctx, d.ID, op.Snapshot.ID); err != nil {
		return out, fmt.Errorf("snapshot %s of volume %s: %w", op.Snapshot.ID, d.Volume, err)
	}
	steps.At("snapshot-delete.made")
	if out, err = o.Commit(context.WithoutCancel(ctx), op); err == nil {
		steps.At("snapshot-delete.recorded")
		o.WriteRecord(ctx, pool, *out.Dataset)
	}
	return out, err
}

// isMade reports whether an earlier attempt has made a snapshot, but crashed before it reported the snapshot to
// control. A restore makes its snapshot as its last step. So if the snapshot exists, only the report of the restore
// is missing, even if the dataset is in use now.
func isMade(ctx context.Context, pool backends.Pool, s dataset.Snapshot) bool {
	e, err := pool.Stat(ctx, s.Dataset)
	return err == nil && host.IndexOf(e, s.ID) >= 0
}

// WithTimeAndSize returns a snapshot with the time at which it was taken and the size of its dataset. An earlier
// attempt may have set the time. Otherwise the time is read from this node's clock, because the clock of the home
// orders the snapshots of an epoch.
func (o *Operations) WithTimeAndSize(ctx context.Context, pool backends.Pool,
	s dataset.Snapshot) (dataset.Snapshot, error) {
	e, err := pool.Stat(ctx, s.Dataset)
	if errors.Is(err, dataset.ErrCorrupt) && s.Kind == dataset.SnapshotRestore {
		err = nil // the head is missing, and a restore makes it again
	}
	if i := host.IndexOf(e, s.ID); err == nil && i >= 0 {
		was := e.Snapshots[i]
		s.Created, s.OrderTime, s.Size, s.Exact = was.Created, was.OrderTime, was.Size, was.Exact
		return s, nil
	}
	return o.Sizes.WithActualSize(s).TakenAfter(e.Snapshots, o.Clock.Now()), err
}

// Restore restores a dataset that is not in use to a snapshot.
func (o *Operations) Restore(ctx context.Context, jb *host.Job, op *dataset.Operation) (out api.Committed, err error) {
	d, pool, unlock, err := o.LockForOperation(ctx, *op, "restore")
	defer unlock()
	if err != nil {
		return out, err
	}
	if err := o.Trust.Err(); err != nil {
		return out, err
	}
	if !isMade(ctx, pool, *op.Snapshot) {
		if err := checkLive(d, "restore"); err != nil {
			return out, err
		}
		if err := o.Verifier.EnsureUnused(ctx, d, "restore"); err != nil {
			return out, err
		}
		end, err := o.Reservations.Reserve(ctx, d)
		if err != nil {
			return out, fmt.Errorf("restore of volume %s: %w", d.Volume, err)
		}
		defer end()
	}
	steps.At("restore.begin")
	jb.Step("restoring")
	op.Snapshot.Exact = pool.Info().Capabilities.InstantSnapshot && backends.IsIdle(ctx, pool, d.ID)
	if *op.Snapshot, err = o.WithTimeAndSize(ctx, pool, *op.Snapshot); err != nil {
		return out, fmt.Errorf("restore of volume %s: %w", d.Volume, err)
	}
	if err := o.restoreData(ctx, jb, pool, d, op); err != nil {
		return out, fmt.Errorf("restore of volume %s: %w", d.Volume, o.Pools.AddHint(ctx, d.Pool, err))
	}
	steps.At("restore.made")
	if out, err = o.Commit(context.WithoutCancel(ctx), op); err == nil {
		steps.At("restore.recorded")
		o.WriteRecord(ctx, pool, *out.Dataset)
	}
	return out, err
}

// restoreData restores the dataset. The replaced content is kept as a snapshot, and no host can write to it. For
// each host that has the dataset mounted, an operator has confirmed that it does not write any more. Without that
// confirmation the restore would have been refused.
func (o *Operations) restoreData(ctx context.Context, jb *host.Job, pool backends.Pool, d dataset.Dataset,
	op *dataset.Operation) error {
	restore := pool.Restore
	if sharer, can := pool.(backends.Sharer); can && d.Profile.Access == dataset.AccessMany {
		now, err := host.UntilAnswered(ctx, o.Host,
			func() (api.Volume, error) { return o.Control.Volume(ctx, d.ID.String()) })
		if err != nil {
			return err
		}
		if slices.ContainsFunc(now.SharedMounts, func(g dataset.SharedMount) bool { return g.Node != o.NodeID }) {
			restore = sharer.RestoreByCopy
		}
	}
	return restore(ctx, d.ID, op.Source.Snapshot, *op.Snapshot, jb.SetProgress)
}
