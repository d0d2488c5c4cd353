package agent

import (
	"context"
	"fmt"
	"slices"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// doRestore restores a dataset that is not in use to a snapshot.
func (a *Agent) doRestore(ctx context.Context, jb *jobs.Job, op *dataset.Operation) (out api.Committed, err error) {
	d, pool, unlock, err := a.datasets.Hold(ctx, *op, "restore")
	defer unlock()
	if err != nil {
		return out, err
	}
	if err := a.Trust.Err(); err != nil {
		return out, err
	}
	if !made(ctx, pool, *op.Snapshot) {
		if err := a.verifier.EnsureUnused(ctx, d, "restore"); err != nil {
			return out, err
		}
		end, err := a.reservations.Reserve(ctx, d)
		if err != nil {
			return out, fmt.Errorf("restore of volume %s: %w", d.Volume, err)
		}
		defer end()
	}
	steps.At("restore.begin")
	jb.Step("restoring")
	if *op.Snapshot, err = a.timed(ctx, pool, *op.Snapshot); err != nil {
		return out, fmt.Errorf("restore of volume %s: %w", d.Volume, err)
	}
	if err := a.restoreBytes(ctx, jb, pool, d, op); err != nil {
		return out, fmt.Errorf("restore of volume %s: %w", d.Volume, a.pools.Mend(ctx, d.Pool, err))
	}
	steps.At("restore.made")
	if out, err = a.datasets.Commit(context.WithoutCancel(ctx), op); err == nil {
		steps.At("restore.recorded")
		a.recordFiles.Write(ctx, pool, *out.Dataset)
	}
	return out, err
}

// restoreBytes restores in such a way that no host can write to what is kept. An operator confirmed of each host
// that has the dataset mounted that it does not write any more, or the restore would have been refused.
func (a *Agent) restoreBytes(ctx context.Context, jb *jobs.Job, pool backends.Pool, d dataset.Dataset,
	op *dataset.Operation) error {
	restore := pool.Restore
	if sharer, can := pool.(backends.Sharer); can && d.Profile.Access == dataset.AccessMany {
		now, err := host.UntilAnswered(ctx, a.Host,
			func() (api.Volume, error) { return a.Control.Volume(ctx, d.ID.String()) })
		if err != nil {
			return err
		}
		if slices.ContainsFunc(now.Guests, func(g dataset.Guest) bool { return g.Node != a.NodeID }) {
			restore = sharer.RestoreApart
		}
	}
	return restore(ctx, d.ID, op.Source.Snapshot, *op.Snapshot, jb.Moved)
}
