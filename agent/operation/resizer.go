package operation

import (
	"context"
	"fmt"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// Resize changes the size of a dataset, mounted or not.
func (o *Operations) Resize(ctx context.Context, jb *host.Job, op *dataset.Operation) (out api.Committed, err error) {
	d, pool, unlock, err := o.LockForOperation(ctx, *op, "resize")
	defer unlock()
	if err == nil {
		err = checkLive(d, "resize")
	}
	if err != nil {
		return out, err
	}
	if size := op.DatasetRecord.Size; size > d.Size {
		st := pool.Status(ctx)
		err := checkFits(st, size)
		if err == nil {
			var release func()
			release, err = o.Pools.Reserve(d.Pool, st, d.ID, size)
			defer release()
		}
		if err != nil {
			return out, fmt.Errorf("volume %s: %w", d.Volume, err)
		}
	}
	steps.At("resize.begin")
	jb.Step("resizing")
	if err := o.Sizes.Resize(ctx, pool, d.ID, op.DatasetRecord.Size); err != nil {
		return out, fmt.Errorf("volume %s: %w", d.Volume, err)
	}
	steps.At("resize.made")
	if out, err = o.Commit(context.WithoutCancel(ctx), op); err == nil {
		steps.At("resize.recorded")
		o.WriteRecord(ctx, pool, *out.Dataset)
		o.reporter.ReportDataset(ctx, d.ID) // otherwise users would see the new size with the usage of the old one
	}
	return out, err
}
