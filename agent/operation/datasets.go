package operation

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// LockForOperation locks the dataset of an operation. It fails if one of these is true:
//
//   - another node is the home of the dataset,
//   - the operation is of another epoch than the dataset,
//   - this node has relinquished the dataset,
//   - control has no record of the dataset (ErrNotFound), or one from before a move that this node knows (ErrStale),
//   - the pool of the dataset is not online (ErrOffline).
//
// unlock is never nil, and the caller must call it even if err is not nil. If the error is ErrOffline, the pool is nil
// and d is set.
func (o *Operations) LockForOperation(ctx context.Context, op dataset.Operation, what string) (
	d dataset.Dataset, pool backends.Pool, unlock func(), err error,
) {
	unlock, err = o.Locks.Lock(ctx, op.DatasetID, what+" of volume "+op.Volume)
	if err != nil {
		return d, nil, func() {}, err
	}
	d, ok := o.Cache.Dataset(op.DatasetID)
	if !ok {
		if d, err = o.FetchDataset(ctx, op.DatasetID); err != nil {
			return d, nil, unlock, err
		}
		if o.Cache.HasLeftSince(d) {
			return d, nil, unlock, dataset.Errorf(dataset.ErrStale,
				"volume %s: it moved to another node after epoch %d, which control sent: control's store may "+
					"have been restored from a backup (%s updates it)", op.Volume, d.Epoch, o.Trust.Remedy())
		}
	}
	if d.Home != o.NodeID && d.Home != uuid.Nil {
		return d, nil, unlock, dataset.Errorf(dataset.ErrStale, "volume %s: its home is now node %s", op.Volume,
			o.Leases.Nodes.Name(d.Home))
	}
	if d.Epoch != op.Epoch {
		return d, nil, unlock, dataset.Errorf(dataset.ErrStale,
			"volume %s: the operation is of epoch %d, but this is epoch %d", op.Volume, op.Epoch, d.Epoch)
	}
	if err := o.Leases.MayChange(d, string(op.Kind)); err != nil {
		return d, nil, unlock, err
	}
	pool, err = o.Pools.Online(ctx, d.Pool)
	return d, pool, unlock, err
}

// checkLive fails with dataset.ErrConflict if a dataset is not that of a volume any more. An operation that waited for
// the dataset's lock calls it before it changes the data: the volume may have been deleted meanwhile, and a change of
// the data in the trash would be reported as a success.
func checkLive(d dataset.Dataset, what string) error {
	if d.State == dataset.StateReady {
		return nil
	}
	return dataset.Errorf(dataset.ErrConflict, "%s of volume %s: it was deleted meanwhile (drover trash ls)", what,
		d.Volume)
}

// EnsureUnrecorded fails with ErrExists if control has a record of a dataset, whichever node is its home and even if
// it is in the trash. It also fails if control does not answer. On a share, the data here may be the only data of a
// dataset whose new home has not taken it over yet.
func (o *Operations) EnsureUnrecorded(ctx context.Context, id uuid.UUID) error {
	_, err := o.Control.Snapshots(ctx, id.String(), api.Page{Limit: 1})
	switch {
	case err == nil:
		return dataset.Errorf(dataset.ErrExists,
			"dataset %s is recorded, with its home on another node (drover volume inspect %[1]s, or drover trash "+
				"ls): the data here may be the only copy", id)
	case errors.Is(err, dataset.ErrNotFound):
		return nil
	}
	return fmt.Errorf("whether another node has dataset %s is unknown: %w", id, err)
}
