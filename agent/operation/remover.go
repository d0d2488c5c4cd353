package operation

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// Remover deletes volumes and destroys datasets. Its state is the table of purges that could not be executed yet.
type Remover struct {
	*Operations
	pending *pendingPurges
}

// Delete removes the name of a volume. The data stays in the trash, or is destroyed by a purge that follows.
func (r *Remover) Delete(ctx context.Context, jb *host.Job, op *dataset.Operation) (out api.Committed, err error) {
	d, _, unlock, err := r.LockForOperation(ctx, *op, "removal")
	defer unlock()
	if err != nil && !errors.Is(err, dataset.ErrOffline) {
		return out, err
	}
	if err := r.Verifier.EnsureUnused(ctx, d, "remove"); err != nil {
		return out, err
	}
	steps.At("delete.begin")
	jb.Step("recording")
	if out, err = r.Commit(ctx, op); err != nil {
		return out, err
	}
	steps.At("delete.recorded")
	if !r.IsHome(out) {
		return out, nil
	}
	if err := r.Spellings.MarkDeleted(ctx, d.ID); err != nil {
		r.LogOf(ctx, d).WithError(err).
			Warn("docker volume ls lists the deleted volume until the engine asks for it")
	}
	if err := mounting.RemoveMountPoint(r.MountPath(d.ID)); err != nil {
		r.LogOf(ctx, d).WithError(err).Warn("cannot remove the mount point")
	}
	if out.Dataset.State == dataset.StatePurging {
		r.PurgeLater(*out.Dataset)
		return out, nil
	}
	// Nobody waits for the record beside the data. If it is lost, the next start writes it again.
	r.WriteRecordLater(api.IndexedDataset{Dataset: *out.Dataset, Index: out.Index})
	return out, nil
}

// Purge destroys a dataset of state purging. While its pool is offline, Purge waits: the dataset is condemned, so the
// operation does not fail, and its data is destroyed as soon as the pool is online again.
func (r *Remover) Purge(ctx context.Context, jb *host.Job, op *dataset.Operation) (out api.Committed, err error) {
	for {
		d := dataset.Dataset{ID: op.DatasetID, Volume: op.Volume}
		if out, err = r.purgeOnce(ctx, jb, op, &d); err == nil || errors.Is(err, dataset.ErrStale) {
			r.pending.forget(op.DatasetID)
			return out, err
		}
		if ctx.Err() != nil {
			return out, err
		}
		waits := errors.Is(err, dataset.ErrOffline)
		first, wake := r.pending.note(d, err, r.Clock.Now(), waits)
		if !waits {
			return out, err // the next attempt follows after controlsync.PurgeEvery
		}
		if first {
			r.LogOf(ctx, d).WithField("op", op.ID).
				Warnf("pending deletion: the data is destroyed when its pool is online: %v", err)
		}
		jb.SetWaitingStep(dataset.Cut("pending deletion: " + dataset.OneLine(err)))
		r.News.Changed(op.DatasetID)
		select {
		case <-wake:
		case <-ctx.Done():
			return out, ctx.Err()
		}
	}
}

// PendingPurges returns the condemned datasets whose data still exists because the last attempt to destroy it failed.
func (r *Remover) PendingPurges() []PendingPurge { return r.pending.list() }

// RetryPending makes the purges that wait for a pool try again if the pool is online, or if the dataset is no longer
// condemned. It asks each pool at most once. It also forgets failed purges of datasets that are no longer condemned.
// For example, the data was destroyed, then the store was restored from an older backup, and its recovery removed the
// record because no node has the data.
func (r *Remover) RetryPending(ctx context.Context) {
	r.pending.forgetObsolete(r.isCondemned)
	for pool, ids := range r.pending.waiting() {
		if _, err := r.Pools.Online(ctx, pool); err != nil {
			ids = slices.DeleteFunc(ids, r.isCondemned)
		}
		r.pending.wake(ids)
	}
}

func (r *Remover) isCondemned(id uuid.UUID) bool {
	d, known := r.Cache.Dataset(id)
	return known && d.State == dataset.StatePurging
}

// purgeOnce tries to destroy a dataset of state purging. It writes the record of the dataset to *at, even if it fails
// later.
func (r *Remover) purgeOnce(ctx context.Context, jb *host.Job, op *dataset.Operation,
	at *dataset.Dataset) (out api.Committed, err error) {
	d, pool, unlock, err := r.LockForOperation(ctx, *op, "purge")
	defer unlock()
	if d.ID != uuid.Nil {
		*at = d
	}
	if errors.Is(err, dataset.ErrNotFound) {
		return r.Commit(ctx, op) // another purge was faster
	}
	if err != nil {
		return out, err
	}
	if err := r.Verifier.EnsureUnused(ctx, d, "purge"); err != nil {
		return out, err
	}
	if err := r.Trust.Err(); err != nil {
		return out, err
	}
	// A recovery of the store may have restored it since the purge was planned, also while Purge waited for the lock.
	if now, ok := r.Cache.Dataset(d.ID); ok && now.State != dataset.StatePurging {
		return out, dataset.Errorf(dataset.ErrStale, "purge of volume %s: it is %s, no longer being purged",
			d.Volume, now.State)
	}
	steps.At("purge.begin")
	jb.Step("destroying")
	if err := pool.Delete(ctx, d.ID); err != nil {
		return out, fmt.Errorf("purge of dataset %s: %w", d.ID, err)
	}
	steps.At("purge.made")
	if out, err = r.Commit(context.WithoutCancel(ctx), op); err != nil {
		return out, err
	}
	steps.At("purge.recorded")
	r.Cache.Remove(d.ID)
	return out, errors.Join(r.Uses.Drop(context.WithoutCancel(ctx), d.ID),
		r.Spellings.Forget(context.WithoutCancel(ctx), d.ID),
		mounting.RemoveMountPoint(r.MountPath(d.ID)))
}
