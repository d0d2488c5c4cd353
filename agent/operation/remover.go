package operation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// PendingPurge is a dataset that is being destroyed and whose data still exists, because the last attempt failed.
type PendingPurge struct {
	Dataset dataset.Dataset
	Since   time.Time // of the first attempt that failed since the agent started
	Reason  string    // why the last attempt failed
}

// Remover deletes volumes and destroys datasets. Its state is the table of purges that could not be executed yet. The
// records of control say which datasets are condemned (in state purging), so the table is only in memory: after a
// start, the first attempt fills it again.
type Remover struct {
	*Operations

	mu      sync.Mutex
	pending map[uuid.UUID]PendingPurge // by dataset
}

// Remove deletes a volume. If a container of the engine may need another spelling of the volume, or if the engine
// removes the volume by an alias, Remove only forgets the spelling. It succeeds if there is no such volume. It fails
// with ErrInUse while the volume is mounted, for every tool, and if Spellings.CheckRemovable refuses.
func (o *Operations) Remove(ctx context.Context, ref dataset.Reference) error {
	d, err := o.Find(ctx, ref)
	if errors.Is(err, dataset.ErrNotFound) && d.ID == uuid.Nil {
		return nil
	}
	if err != nil {
		return err
	}
	if err := o.Verifier.CheckUnmounted(ctx, d); err != nil {
		if errors.Is(err, dataset.ErrInUse) && d.Home == o.NodeID {
			return dataset.WithHolders(err, o.Holders.Examine(ctx, d))
		}
		return err
	}
	if err := o.CheckRemovable(ctx, d, ref); err != nil {
		return err
	}
	if removed, err := o.RemoveSpelling(ctx, d, ref); err != nil || removed {
		return err
	}
	// The volume may have been renamed since the cache was updated. Then the name that the engine removes is an alias,
	// and the removal of an alias must not delete the data. So the request names the dataset by its UUID, and control
	// refuses it if the volume has another name now.
	if err := o.Perform(ctx, api.Request{Kind: dataset.OpDelete, Volume: d.ID.String(), Name: d.Volume}); err != nil {
		return err
	}
	return o.Spellings.MarkDeleted(ctx, d.ID)
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
// operation does not fail, and Purge tries again at each heartbeat until the pool is online.
func (r *Remover) Purge(ctx context.Context, jb *host.Job, op *dataset.Operation) (out api.Committed, err error) {
	for {
		d := dataset.Dataset{ID: op.DatasetID, Volume: op.Volume}
		if out, err = r.purgeOnce(ctx, jb, op, &d); err == nil || errors.Is(err, dataset.ErrStale) {
			r.mu.Lock()
			delete(r.pending, op.DatasetID)
			r.mu.Unlock()
			return out, err
		}
		if ctx.Err() != nil {
			return out, err
		}
		first := r.notePending(d, err)
		if !errors.Is(err, dataset.ErrOffline) {
			return out, err // the next attempt follows after controlsync.PurgeEvery
		}
		jb.SetWaitingStep(dataset.Cut("pending deletion: " + dataset.OneLine(err)))
		if first {
			r.LogOf(ctx, d).WithField("op", op.ID).
				Warnf("pending deletion: the data is destroyed when its pool is online: %v", err)
			r.News.Changed(op.DatasetID)
		}
		select {
		case <-r.Clock.After(r.Timing.Heartbeat):
		case <-ctx.Done():
			return out, ctx.Err()
		}
	}
}

// notePending records a failed attempt. It returns true for the first failure of a dataset.
func (r *Remover) notePending(d dataset.Dataset, err error) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, again := r.pending[d.ID]
	if !again {
		p.Since = r.Clock.Now()
	}
	p.Dataset, p.Reason = d, dataset.OneLine(err)
	r.pending[d.ID] = p
	return !again
}

// PendingPurges returns the condemned datasets whose data still exists because the last attempt to destroy it failed,
// sorted by the names of their volumes. It forgets those that are no longer condemned. For example, the data was
// destroyed, then the store was restored from an older backup, and its recovery removed the record because no node has
// the data.
func (r *Remover) PendingPurges() []PendingPurge {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.pending, func(id uuid.UUID, _ PendingPurge) bool {
		d, known := r.Cache.Dataset(id)
		return !known || d.State != dataset.StatePurging
	})
	return slices.SortedFunc(maps.Values(r.pending), func(x, y PendingPurge) int {
		return cmp.Or(cmp.Compare(x.Dataset.Volume, y.Dataset.Volume),
			cmp.Compare(x.Dataset.ID.String(), y.Dataset.ID.String()))
	})
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
