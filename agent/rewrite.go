package agent

import (
	"context"
	"fmt"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// doRewrite has the pool write the head of a dataset again. Nobody uses it: a mount or a move ends the operation.
func (a *Agent) doRewrite(ctx context.Context, jb *jobs.Job, op *dataset.Operation) (out api.Committed, err error) {
	d, pool, unlock, err := a.datasets.Hold(ctx, *op, "rewrite")
	defer unlock()
	if err != nil {
		return out, err
	}
	if err := a.verifier.EnsureUnused(ctx, d, "rewrite"); err != nil {
		return out, err
	}
	r, ok := pool.(backends.Rewriter)
	if !ok {
		why := "its pool keeps files, and no image that could be written anew"
		if pool.Info().Capabilities.ConstantSnapshot {
			why = "there is nothing to gain: snapshots in its pool take the same time however fragmented it is"
		}
		return out, dataset.Errorf(dataset.ErrUnsupported, "rewrite of volume %s: %s", d.Volume, why)
	}
	steps.At("rewrite.begin")
	jb.Step("writing it anew")
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	was, now, err := r.Rewrite(ctx, d.ID, func(done, total int64) {
		jb.Moved(done, total)
		if a.Locks.IsUrgent(d.ID) {
			cancel(dataset.Errorf(dataset.ErrInUse,
				"a mount or a move came, so nothing was changed (ask again when nobody uses it)"))
		}
	})
	if err != nil {
		return out, fmt.Errorf("rewrite of volume %s: %w", d.Volume, err)
	}
	a.LogOf(d).Infof("written anew: its %d extents are %d now", was, now)
	steps.At("rewrite.made")
	if out, err = a.datasets.Commit(context.WithoutCancel(ctx), op); err == nil {
		steps.At("rewrite.recorded")
		a.recordFiles.Write(ctx, pool, *out.Dataset)
	}
	return out, err
}
