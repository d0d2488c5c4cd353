package operation

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// reserve sets the default size of a new dataset, and checks that its pool allows that size. Call release once the
// dataset is recorded, or the operation has failed.
func (o *Operations) reserve(ctx context.Context, pool backends.Pool, op *dataset.Operation) (release func(),
	err error) {
	d, st := op.DatasetRecord, pool.Status(ctx)
	if op.Source == nil {
		host.ApplyDefaults(d, pool, st)
		err = host.CheckFits(st, max(d.Size, d.Profile.Size))
	}
	release = func() {}
	if err == nil {
		release, err = o.Pools.Reserve(d.Pool, st, d.ID, d.Size)
	}
	if err != nil {
		return release, fmt.Errorf("volume %s: %w", op.Volume, err)
	}
	return release, nil
}

// makeDataset locks op.DatasetRecord, and makes it in its pool as an incoming dataset, if there is space for it. asked
// is the size that was requested of the backend, which may have rounded it. The caller must call end, even if err is
// not nil, once the dataset is recorded or removed.
func (o *Operations) makeDataset(ctx context.Context, jb *host.Job, op *dataset.Operation, name string) (
	pool backends.Pool, asked dataset.Size, end func(), err error) {
	unlock, err := o.Locks.Lock(ctx, op.DatasetID, name+" of volume "+op.Volume)
	if err != nil {
		return nil, 0, func() {}, err
	}
	if pool, err = o.Pools.Get(op.DatasetRecord.Pool); err != nil {
		return nil, 0, unlock, err
	}
	release, err := o.reserve(ctx, pool, op)
	end = func() { release(); unlock() }
	if err != nil {
		return nil, 0, end, err
	}
	if err := o.Pools.CheckRootSpace(ctx); err != nil {
		return nil, 0, end, fmt.Errorf("volume %s: %w", op.Volume, err)
	}
	steps.At(name + ".begin")
	asked = op.DatasetRecord.Size
	withKey, err := o.Keys.Seal(ctx, pool, op)
	if err != nil {
		return nil, 0, end, fmt.Errorf("volume %s: %w", op.Volume, err)
	}
	if err := o.MakeInPool(withKey, jb, pool, op); err != nil {
		return nil, 0, end, fmt.Errorf("volume %s: %w", op.Volume, o.Pools.AddHint(ctx, op.DatasetRecord.Pool, err))
	}
	steps.At(name + ".made")
	return pool, asked, end, nil
}

// MakeInPool makes the dataset of an operation in a pool, and does not record it.
func (o *Operations) MakeInPool(ctx context.Context, jb *host.Job, pool backends.Pool, op *dataset.Operation) error {
	if op.Source == nil {
		jb.Step("making")
		size, err := pool.Create(ctx, *op.DatasetRecord)
		op.DatasetRecord.Size = size
		return err
	}
	planned := op.DatasetRecord.Size
	later, err := o.makeClone(ctx, jb, pool, op)
	if err != nil {
		return err
	}
	if later == nil {
		if err := setCloneSize(op, planned); err != nil {
			return errors.Join(err, host.Discard(ctx, o.Host, pool, op.DatasetID))
		}
		return nil
	}
	jb.Step("growing")
	err = later.Resize(ctx, op.DatasetID, op.DatasetRecord.Size, nil)
	if err == nil { // the second call writes the record with the actual size; the dataset exists already
		op.DatasetRecord.Size, err = pool.Clone(ctx, *op.DatasetRecord, *op.Source, nil)
	}
	if err != nil {
		return errors.Join(err, host.Discard(ctx, o.Host, pool, op.DatasetID))
	}
	return nil
}

// setCloneSize checks the size of a new clone, and raises the size in its profile to the actual size. A new clone has
// the size of its source, and the source may have been resized since the clone was planned. If the request asked for a
// size, the clone must not be larger than that size.
func setCloneSize(op *dataset.Operation, planned dataset.Size) error {
	d := op.DatasetRecord
	if planned == 0 || d.Size == planned {
		return nil
	}
	if asked := op.Options["size"]; asked != "" && d.Size > planned {
		return dataset.Errorf(dataset.ErrInvalid,
			"size %s is smaller than the size %s of its source, which was resized meanwhile (omit the size)", asked,
			d.Size.Readable())
	}
	d.Profile.Size = max(d.Profile.Size, d.Size)
	return nil
}

// makeClone makes a clone while nothing is written to the source, and sets its actual size in op.DatasetRecord. If the
// clone must still grow to its size, makeClone returns the pool as later instead, and the caller calls later.Resize:
// the source is thawed by then.
func (o *Operations) makeClone(ctx context.Context, jb *host.Job, pool backends.Pool,
	op *dataset.Operation) (later backends.Resizer, err error) {
	unlock, err := o.Locks.Lock(ctx, op.Source.Dataset, "clone into "+op.Volume)
	if err != nil {
		return nil, err
	}
	defer unlock()
	made, in, end := *op.DatasetRecord, ctx, func() bool { return false }
	if d, ok := o.Cache.Dataset(op.Source.Dataset); ok && op.Source.Snapshot == uuid.Nil {
		if err := o.Leases.MayChange(d, "clone"); err != nil {
			return nil, err
		}
		if made.Size > d.Size {
			if err := host.CheckFits(pool.Status(ctx), made.Size); err != nil {
				return nil, err
			}
		}
		release, err := o.Reservations.Reserve(ctx, d)
		if err != nil {
			return nil, err
		}
		defer release()
		// To grow a clone, the backend mounts it. Work on the source should not wait for that mount, so the clone is
		// grown after the source is unlocked.
		if r, can := pool.(backends.Resizer); can && made.Size > d.Size {
			later, made.Size = r, 0
		}
		if in, end, err = o.Quiescer.Prepare(ctx, pool, d); err != nil {
			return nil, err
		}
	}
	jb.Step("cloning")
	size, err := pool.Clone(in, made, *op.Source, jb.SetProgress)
	end()
	// An earlier attempt that was interrupted may have made the clone. The source may have been smaller then, and may
	// be larger than the requested size now.
	// The source may have been given a size since the request.
	bounded := size > 0 || pool.Info().Capabilities.EnforcesSize
	if r, can := pool.(backends.Resizer); can && bounded && size < made.Size {
		later = r
	}
	if later != nil && size > op.DatasetRecord.Size { // the source was resized since the clone was planned
		later = nil
	}
	if later == nil {
		op.DatasetRecord.Size = size
	}
	return later, err
}
