package operation

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// ResizerDeps is what Resizer needs of other components.
type ResizerDeps struct {
	*host.Host
	Datasets  *Datasets
	Records   *RecordWriter
	Sizes     *Sizes
	Provision Provision
	// Report reports the status of a dataset to control at once.
	Report func(ctx context.Context, id uuid.UUID)
}

// Resizer changes the sizes of datasets. It has no state: Sizes has the deferred resizes.
type Resizer struct {
	deps ResizerDeps
}

// NewResizer returns a Resizer.
func NewResizer(deps ResizerDeps) *Resizer { return &Resizer{deps} }

// Resize changes the size of a dataset, mounted or not.
func (r *Resizer) Resize(ctx context.Context, jb *host.Job, op *dataset.Operation) (out api.Committed, err error) {
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
		err := host.CheckFits(st, size)
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
