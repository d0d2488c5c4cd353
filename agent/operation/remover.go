package operation

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// RemoverDeps is what Remover needs of other components.
type RemoverDeps struct {
	*host.Host
	Datasets        *Datasets
	Records         *RecordWriter
	EnsureUnused    EnsureUnused
	ForgetSpellings func(ctx context.Context, d dataset.Dataset) error // that the engine used
	DropUses        func(ctx context.Context, id uuid.UUID) error
	PurgeLater      func(d dataset.Dataset)
}

// Remover deletes volumes and destroys datasets. It has no state of its own.
type Remover struct {
	deps RemoverDeps
}

// NewRemover returns a Remover.
func NewRemover(deps RemoverDeps) *Remover { return &Remover{deps} }

// Delete removes the name of a volume. The data stays in the trash, or is destroyed by a purge that follows.
func (r *Remover) Delete(ctx context.Context, jb *jobs.Job, op *dataset.Operation) (out api.Committed, err error) {
	d, _, unlock, err := r.deps.Datasets.LockForOperation(ctx, *op, "removal")
	defer unlock()
	if err != nil && !errors.Is(err, dataset.ErrOffline) {
		return out, err
	}
	if err := r.deps.EnsureUnused(ctx, d, "remove"); err != nil {
		return out, err
	}
	steps.At("delete.begin")
	jb.Step("recording")
	if out, err = r.deps.Datasets.Commit(ctx, op); err != nil {
		return out, err
	}
	steps.At("delete.recorded")
	if !r.deps.Datasets.IsHome(out) {
		return out, nil
	}
	if err := r.deps.ForgetSpellings(ctx, d); err != nil {
		r.deps.LogOf(d).WithError(err).Warn("cannot remove the spellings that the engine used")
	}
	if err := mounting.RemoveMountPoint(r.deps.MountPath(d.ID)); err != nil {
		r.deps.LogOf(d).WithError(err).Warn("cannot remove the mount point")
	}
	if out.Dataset.State == dataset.StatePurging {
		r.deps.PurgeLater(*out.Dataset)
		return out, nil
	}
	// Nobody waits for the record beside the data. If it is lost, the next start writes it again.
	r.deps.Records.WriteLater(api.Indexed{Dataset: *out.Dataset, Index: out.Index})
	return out, nil
}

// Purge destroys a dataset of state purging.
func (r *Remover) Purge(ctx context.Context, jb *jobs.Job, op *dataset.Operation) (out api.Committed, err error) {
	d, pool, unlock, err := r.deps.Datasets.LockForOperation(ctx, *op, "purge")
	defer unlock()
	if errors.Is(err, dataset.ErrNotFound) {
		return r.deps.Datasets.Commit(ctx, op) // another purge was faster
	}
	if err != nil {
		return out, err
	}
	if err := r.deps.EnsureUnused(ctx, d, "purge"); err != nil {
		return out, err
	}
	if err := r.deps.Trust.Err(); err != nil {
		return out, err
	}
	// A recovery of the store may have restored it since the purge was planned, also while Purge waited for the lock.
	if now, ok := r.deps.Cache.Dataset(d.ID); ok && now.State != dataset.StatePurging {
		return out, dataset.Errorf(dataset.ErrStale, "purge of volume %s: it is %s, no longer being purged",
			d.Volume, now.State)
	}
	steps.At("purge.begin")
	jb.Step("destroying")
	if err := pool.Delete(ctx, d.ID); err != nil {
		return out, fmt.Errorf("purge of dataset %s: %w", d.ID, err)
	}
	steps.At("purge.made")
	if out, err = r.deps.Datasets.Commit(context.WithoutCancel(ctx), op); err != nil {
		return out, err
	}
	steps.At("purge.recorded")
	r.deps.Cache.Remove(d.ID)
	return out, errors.Join(r.deps.DropUses(context.WithoutCancel(ctx), d.ID),
		mounting.RemoveMountPoint(r.deps.MountPath(d.ID)))
}
