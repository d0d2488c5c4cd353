package operation

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/storage"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// ReshaperDeps is what Reshaper needs of other components.
type ReshaperDeps struct {
	*host.Host
	Datasets     *Datasets
	Records      *RecordWriter
	Sizes        *Sizes
	Provision    Provision
	EnsureUnused EnsureUnused
	// Report reports the status of a dataset to control at once.
	Report func(ctx context.Context, id uuid.UUID)
}

// Reshaper changes how a dataset is stored, and not its content: its size, and where its blocks are. It has no state.
type Reshaper struct {
	deps ReshaperDeps
}

// NewReshaper returns a Reshaper.
func NewReshaper(deps ReshaperDeps) *Reshaper { return &Reshaper{deps} }

// Resize changes the size of a dataset, mounted or not.
func (r *Reshaper) Resize(ctx context.Context, jb *jobs.Job, op *dataset.Operation) (out api.Committed, err error) {
	d, pool, unlock, err := r.deps.Datasets.LockForOperation(ctx, *op, "resize")
	defer unlock()
	if err == nil {
		err = checkLive(d, "resize")
	}
	if err != nil {
		return out, err
	}
	if size := op.DatasetRecord.Size; size > d.Size {
		st := pool.Status(ctx)
		err := storage.CheckFits(st, size)
		if err == nil {
			var release func()
			release, err = r.deps.Provision(d.Pool, st, d.ID, size)
			defer release()
		}
		if err != nil {
			return out, fmt.Errorf("volume %s: %w", d.Volume, err)
		}
	}
	steps.At("resize.begin")
	jb.Step("resizing")
	if err := r.deps.Sizes.Resize(ctx, pool, d.ID, op.DatasetRecord.Size); err != nil {
		return out, fmt.Errorf("volume %s: %w", d.Volume, err)
	}
	steps.At("resize.made")
	if out, err = r.deps.Datasets.Commit(context.WithoutCancel(ctx), op); err == nil {
		steps.At("resize.recorded")
		r.deps.Records.Write(ctx, pool, *out.Dataset)
		r.deps.Report(ctx, d.ID) // otherwise users would see the new size with the usage of the old one
	}
	return out, err
}

// Rewrite has the pool write the head of a dataset again. The dataset must not be in use. A mount or a move cancels the
// operation.
func (r *Reshaper) Rewrite(ctx context.Context, jb *jobs.Job, op *dataset.Operation) (out api.Committed, err error) {
	d, pool, unlock, err := r.deps.Datasets.LockForOperation(ctx, *op, "rewrite")
	defer unlock()
	if err == nil {
		err = checkLive(d, "rewrite")
	}
	if err != nil {
		return out, err
	}
	if err := r.deps.EnsureUnused(ctx, d, "rewrite"); err != nil {
		return out, err
	}
	rewriter, ok := pool.(backends.Rewriter)
	if !ok {
		why := "its pool stores files, not an image that could be rewritten"
		if pool.Info().Capabilities.ConstantSnapshot {
			why = "rewriting has no benefit: snapshots in its pool take constant time"
		}
		return out, dataset.Errorf(dataset.ErrUnsupported, "rewrite of volume %s: %s", d.Volume, why)
	}
	steps.At("rewrite.begin")
	jb.Step("rewriting it")
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	was, now, err := rewriter.Rewrite(ctx, d.ID, func(done, total int64) {
		jb.SetProgress(done, total)
		if r.deps.Locks.IsUrgent(d.ID) {
			cancel(dataset.Errorf(dataset.ErrInUse,
				"a mount or a move arrived, so nothing was changed (try again when it is not in use)"))
		}
	})
	if err != nil {
		return out, fmt.Errorf("rewrite of volume %s: %w", d.Volume, err)
	}
	r.deps.LogOf(ctx, d).Infof("rewritten: its %d extents are now %d", was, now)
	steps.At("rewrite.made")
	if out, err = r.deps.Datasets.Commit(context.WithoutCancel(ctx), op); err == nil {
		steps.At("rewrite.recorded")
		r.deps.Records.Write(ctx, pool, *out.Dataset)
	}
	return out, err
}
