package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/lineage"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/storage"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// acts are the kinds of operations that this agent executes.
func (a *Agent) acts() map[dataset.OpKind]func(context.Context, *jobs.Job, *dataset.Operation) (api.Committed, error) {
	return map[dataset.OpKind]func(context.Context, *jobs.Job, *dataset.Operation) (api.Committed, error){
		dataset.OpCreate: a.doCreate, dataset.OpClone: a.doCreate, dataset.OpImport: a.doImport,
		dataset.OpSnapshot: a.doSnapshot, dataset.OpSnapshotDelete: a.doSnapshotDelete,
		dataset.OpRestore: a.doRestore, dataset.OpResize: a.doResize, dataset.OpRekey: a.doRekey,
		dataset.OpRewrite: a.doRewrite,
		dataset.OpDelete:  a.doDelete, dataset.OpPurge: a.doPurge, dataset.OpMove: a.doMove,
	}
}

// does returns these kinds, for control.
func (a *Agent) does() []dataset.OpKind { return slices.Sorted(maps.Keys(a.acts())) }

// carryOut executes an operation and has control record the outcome. It can be called again for the same
// operation after a crash: each act is idempotent by the UUIDs in it.
func (a *Agent) carryOut(ctx context.Context, jb *jobs.Job, op dataset.Operation) (out api.Committed, err error) {
	act, known := a.acts()[op.Kind]
	if !known { // the failure is recorded, or the operation would be started again for ever
		act = func(context.Context, *jobs.Job, *dataset.Operation) (out api.Committed, err error) {
			return out, dataset.Errorf(dataset.ErrUnsupported,
				"operation %s: this agent cannot do %q (is it older than control?)", op.ID, op.Kind)
		}
	}
	err = a.operations.Run(ctx, jb, op, func(ctx context.Context, op *dataset.Operation) error {
		out, err = act(ctx, jb, op)
		return err
	})
	if err != nil {
		return out, err
	}
	if out.Dataset != nil && !out.Lost {
		a.pools.Changed(out.Dataset.Pool, op.Kind == dataset.OpMove)
	}
	a.LogOf(dataset.Dataset{Volume: op.Volume, ID: op.DatasetID}).
		WithFields(map[string]any{"op": op.ID, "kind": op.Kind}).Info("operation is done")
	a.News.Changed(op.DatasetID)
	return out, nil
}

// doSnapshot takes a snapshot of a dataset, mounted or not.
func (a *Agent) doSnapshot(ctx context.Context, jb *jobs.Job, op *dataset.Operation) (out api.Committed, err error) {
	d, pool, unlock, err := a.datasets.Hold(ctx, *op, "snapshot")
	defer unlock()
	if err != nil {
		return out, err
	}
	thaw := func() error { return nil }
	in, again := ctx, made(ctx, pool, *op.Snapshot)
	if !again {
		if err := a.mayTake(ctx, pool, d, *op.Snapshot); err != nil {
			return out, fmt.Errorf("snapshot of volume %s: %w", d.Volume, err)
		}
		end, err := a.reservations.Reserve(ctx, d)
		if err != nil {
			return out, fmt.Errorf("snapshot of volume %s: %w", d.Volume, err)
		}
		defer end()
	}
	steps.At("snapshot.begin")
	// The snapshot was due earlier, and this node may have been down since.
	if *op.Snapshot, err = a.timed(ctx, pool, *op.Snapshot); err != nil {
		return out, fmt.Errorf("snapshot of volume %s: %w", d.Volume, err)
	}
	if !again {
		if in, thaw, err = a.quiescer.Freeze(ctx, pool, d); err != nil {
			return out, err
		}
	}
	jb.Step("taking the snapshot")
	err = errors.Join(pool.Snapshot(in, *op.Snapshot, jb.Moved), thaw())
	if err != nil {
		return out, errors.Join(fmt.Errorf("snapshot of volume %s: %w", d.Volume, a.pools.Mend(ctx, d.Pool, err)),
			storage.DiscardSnapshot(ctx, pool, *op.Snapshot))
	}
	steps.At("snapshot.made")
	if out, err = a.datasets.Commit(ctx, op); err != nil && !host.InDoubt(err) {
		return out, errors.Join(err, storage.DiscardSnapshot(ctx, pool, *op.Snapshot))
	}
	if err == nil {
		steps.At("snapshot.recorded")
		a.recordFiles.Write(ctx, pool, *out.Dataset)
	}
	return out, err
}

// mayTake refuses a snapshot for which there is not enough space.
func (a *Agent) mayTake(ctx context.Context, pool backends.Pool, d dataset.Dataset, s dataset.Snapshot) error {
	err := a.pools.Room(ctx)
	if err == nil && s.Kind == dataset.SnapshotScheduled {
		err = storage.CheckTight(ctx, pool, d)
	}
	return err
}

// doSnapshotDelete destroys a snapshot and then forgets it. The operation is recorded: after a crash between the
// two both are repeated.
func (a *Agent) doSnapshotDelete(ctx context.Context, jb *jobs.Job, op *dataset.Operation) (out api.Committed,
	err error) {
	d, pool, unlock, err := a.datasets.Hold(ctx, *op, "removal of a snapshot")
	defer unlock()
	if err != nil {
		return out, err
	}
	if err := a.Trust.Err(); err != nil {
		return out, err
	}
	steps.At("snapshot-delete.begin")
	jb.Step("removing the snapshot")
	if err := pool.DeleteSnapshot(ctx, d.ID, op.Snapshot.ID); err != nil {
		return out, fmt.Errorf("snapshot %s of volume %s: %w", op.Snapshot.ID, d.Volume, err)
	}
	steps.At("snapshot-delete.made")
	if out, err = a.datasets.Commit(context.WithoutCancel(ctx), op); err == nil {
		steps.At("snapshot-delete.recorded")
		a.recordFiles.Write(ctx, pool, *out.Dataset)
	}
	return out, err
}

// made reports whether an earlier try, whose report a crash kept from control, has made a snapshot,
// which of a restore is the last thing that it does: all that is left is to say so, whoever uses
// the dataset by now.
func made(ctx context.Context, pool backends.Pool, s dataset.Snapshot) bool {
	e, err := pool.Stat(ctx, s.Dataset)
	return err == nil && lineage.IndexOf(e, s.ID) >= 0
}

// timed returns a snapshot with the time at which it was taken and the size of its dataset. An earlier attempt
// may have set the time; otherwise it is the present time by this node's clock, which orders the snapshots of an
// epoch.
func (a *Agent) timed(ctx context.Context, pool backends.Pool, s dataset.Snapshot) (dataset.Snapshot, error) {
	e, err := pool.Stat(ctx, s.Dataset)
	if i := lineage.IndexOf(e, s.ID); err == nil && i >= 0 {
		s.Created, s.Order, s.Size = e.Snapshots[i].Created, e.Snapshots[i].Order, e.Snapshots[i].Size
		return s, nil
	}
	return a.sizes.WithActualSize(s).TakenAfter(e.Snapshots, a.Clock.Now()), err
}

// doResize changes the size of a dataset, mounted or not.
func (a *Agent) doResize(ctx context.Context, jb *jobs.Job, op *dataset.Operation) (out api.Committed, err error) {
	d, pool, unlock, err := a.datasets.Hold(ctx, *op, "resize")
	defer unlock()
	if err != nil {
		return out, err
	}
	if op.Dataset.Size > d.Size {
		if err := storage.CheckFits(ctx, pool, op.Dataset.Size); err != nil {
			return out, fmt.Errorf("volume %s: %w", d.Volume, err)
		}
	}
	steps.At("resize.begin")
	jb.Step("resizing")
	if err := a.sizes.Resize(ctx, pool, d.ID, op.Dataset.Size); err != nil {
		return out, fmt.Errorf("volume %s: %w", d.Volume, err)
	}
	steps.At("resize.made")
	if out, err = a.datasets.Commit(context.WithoutCancel(ctx), op); err == nil {
		steps.At("resize.recorded")
		a.recordFiles.Write(ctx, pool, *out.Dataset)
	}
	return out, err
}

// doDelete removes the name of a volume. The data stays in the trash, or is destroyed by a purge that follows.
func (a *Agent) doDelete(ctx context.Context, jb *jobs.Job, op *dataset.Operation) (out api.Committed, err error) {
	d, _, unlock, err := a.datasets.Hold(ctx, *op, "removal")
	defer unlock()
	if err != nil && !errors.Is(err, dataset.ErrOffline) {
		return out, err
	}
	if err := a.verifier.EnsureUnused(ctx, d, "remove"); err != nil {
		return out, err
	}
	steps.At("delete.begin")
	jb.Step("recording")
	if out, err = a.datasets.Commit(ctx, op); err != nil {
		return out, err
	}
	steps.At("delete.recorded")
	if !a.datasets.IsHere(out) {
		return out, nil
	}
	if err := a.unlearn(ctx, d); err != nil {
		a.LogOf(d).WithError(err).Warn("how the engine spelled it was left over")
	}
	if err := mounting.RemoveMountPoint(a.MountPath(d.ID)); err != nil {
		a.LogOf(d).WithError(err).Warn("mount point was left over")
	}
	if out.Dataset.State == dataset.StatePurging {
		a.purgeLater(*out.Dataset)
		return out, nil
	}
	// Nobody waits for the record beside the data. If it is lost, the next start writes it again.
	a.recordFiles.WriteLater(api.Indexed{Dataset: *out.Dataset, Index: out.Index})
	return out, nil
}

// doPurge destroys a dataset of state purging.
func (a *Agent) doPurge(ctx context.Context, jb *jobs.Job, op *dataset.Operation) (out api.Committed, err error) {
	d, pool, unlock, err := a.datasets.Hold(ctx, *op, "purge")
	defer unlock()
	if errors.Is(err, dataset.ErrNotFound) {
		return a.datasets.Commit(ctx, op) // another purge was faster
	}
	if err != nil {
		return out, err
	}
	if err := a.verifier.EnsureUnused(ctx, d, "purge"); err != nil {
		return out, err
	}
	if err := a.Trust.Err(); err != nil {
		return out, err
	}
	// A recovery may have restored it since the purge was planned, or while this waited.
	if now, ok := a.Cache.Dataset(d.ID); ok && now.State != dataset.StatePurging {
		return out, dataset.Errorf(dataset.ErrStale, "purge of volume %s: it is %s, and not condemned any more",
			d.Volume, now.State)
	}
	steps.At("purge.begin")
	jb.Step("destroying")
	if err := pool.Delete(ctx, d.ID); err != nil {
		return out, fmt.Errorf("purge of dataset %s: %w", d.ID, err)
	}
	steps.At("purge.made")
	if out, err = a.datasets.Commit(context.WithoutCancel(ctx), op); err != nil {
		return out, err
	}
	steps.At("purge.recorded")
	a.Cache.Remove(d.ID)
	return out, errors.Join(a.uses.Drop(context.WithoutCancel(ctx), d.ID), mounting.RemoveMountPoint(a.MountPath(d.ID)))
}
