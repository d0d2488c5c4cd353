package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// doCreate makes a dataset, empty or as a clone.
func (a *Agent) doCreate(ctx context.Context, jb *jobs.Job, op *dataset.Operation) (api.Committed, error) {
	name := "create"
	if op.Source != nil {
		name = "clone"
	}
	return a.doMake(ctx, jb, op, name, nil)
}

// doMake makes op.Dataset under a private name, lets fill put something in, and
// claims the name for it. What was made goes again unless it is on record.
func (a *Agent) doMake(ctx context.Context, jb *jobs.Job, op *dataset.Operation, name string,
	fill func(backends.Pool) error) (out api.Committed, err error) {
	// Nobody else knows the dataset before it is committed; then the next sync does. What is done
	// under a lock is waited for before a pool goes.
	unlock, err := a.Locks.Lock(ctx, op.DatasetID, name+" of volume "+op.Volume)
	if err != nil {
		return out, err
	}
	defer unlock()
	pool, err := a.pools.Get(op.Dataset.Pool)
	if err != nil {
		return out, err
	}
	if err := a.pools.Room(ctx); err != nil {
		return out, fmt.Errorf("volume %s: %w", op.Volume, err)
	}
	steps.At(name + ".begin")
	if op.Source == nil {
		if err := fitsPool(ctx, pool, op.Dataset.Profile.Size); err != nil {
			return out, fmt.Errorf("volume %s: %w", op.Volume, err)
		}
		settle(op.Dataset, pool)
	}
	asked := op.Dataset.Size
	withKey, err := a.seal(ctx, pool, op)
	if err != nil {
		return out, fmt.Errorf("volume %s: %w", op.Volume, err)
	}
	if err := a.makeBytes(withKey, jb, pool, op); err != nil {
		return out, fmt.Errorf("volume %s: %w", op.Volume, a.pools.Mend(ctx, op.Dataset.Pool, err))
	}
	steps.At(name + ".made")
	if fill != nil {
		if err := fill(pool); err != nil {
			return out, errors.Join(err, a.discard(ctx, pool, op.DatasetID))
		}
	}
	jb.Step("recording")
	out, err = a.commit(ctx, op)
	if operation.InDoubt(err) {
		return out, err // the next sync tells whether it is on record
	}
	if err != nil || out.Lost {
		return out, errors.Join(err, a.discard(ctx, pool, op.DatasetID))
	}
	steps.At(name + ".recorded")
	if err := pool.Commit(context.WithoutCancel(ctx), op.DatasetID); err != nil {
		return out, fmt.Errorf("volume %s: it is made and recorded, but not in its place yet: %w", op.Volume, err)
	}
	steps.At(name + ".committed")
	if out.Dataset.Size != asked { // the record beside the data says what was asked
		a.noteDone(ctx, pool, *out.Dataset)
	}
	return out, nil
}

// settle puts on a new dataset's record, from the start, what its pool decides where the
// profile is silent.
func settle(d *dataset.Dataset, pool backends.Pool) {
	if d.Size == 0 {
		d.Size = pool.Info().DefaultSize
	}
	if f, ok := pool.(backends.Formatter); ok && d.Profile.Filesystem.Type == "" {
		d.Profile.Filesystem.Type, d.Profile.Filesystem.Chosen = f.Filesystem(d.Size), true
	}
}

func (a *Agent) makeBytes(ctx context.Context, jb *jobs.Job, pool backends.Pool, op *dataset.Operation) error {
	if op.Source == nil {
		jb.Step("making")
		size, err := pool.Create(ctx, *op.Dataset)
		op.Dataset.Size = size
		return err
	}
	planned := op.Dataset.Size
	later, err := a.cloneBytes(ctx, jb, pool, op)
	if err != nil {
		return err
	}
	if later == nil {
		if err := takeSize(op, planned); err != nil {
			return errors.Join(err, a.discard(ctx, pool, op.DatasetID))
		}
		return nil
	}
	jb.Step("growing")
	err = later.Resize(ctx, op.DatasetID, op.Dataset.Size, nil)
	if err == nil { // once more: it is there, and its record says how large now
		op.Dataset.Size, err = pool.Clone(ctx, *op.Dataset, *op.Source, nil)
	}
	if err != nil {
		return errors.Join(err, a.discard(ctx, pool, op.DatasetID))
	}
	return nil
}

// takeSize checks the size of a clone that was made, which is its source's if that was resized
// since the clone was planned. A size that was asked for is not exceeded.
func takeSize(op *dataset.Operation, planned dataset.Size) error {
	d := op.Dataset
	if planned == 0 || d.Size == planned || d.Size.RoundedFrom(planned) {
		return nil
	}
	if asked := op.Options["size"]; asked != "" && d.Size > planned {
		return dataset.Errorf(dataset.ErrInvalid,
			"size %s is smaller than its source's %s, which was resized meanwhile (leave the size out)", asked,
			d.Size.Said(0))
	}
	d.Profile.Size = max(d.Profile.Size, d.Size)
	return nil
}

// cloneBytes makes a clone while the source holds still. What it returns is to have it grow to its
// size, which is for when they write to the source again.
func (a *Agent) cloneBytes(ctx context.Context, jb *jobs.Job, pool backends.Pool,
	op *dataset.Operation) (later backends.Resizer, err error) {
	unlock, err := a.Locks.Lock(ctx, op.Source.Dataset, "clone into "+op.Volume)
	if err != nil {
		return nil, err
	}
	defer unlock()
	made, in, thaw := *op.Dataset, ctx, func() error { return nil }
	if d, ok := a.Cache.Dataset(op.Source.Dataset); ok && op.Source.Snapshot == uuid.Nil {
		if err := a.leases.MayChange(d, "clone"); err != nil {
			return nil, err
		}
		if made.Size > d.Size {
			if err := fitsPool(ctx, pool, made.Size); err != nil {
				return nil, err
			}
		}
		end, err := a.alone(ctx, d)
		if err != nil {
			return nil, err
		}
		defer end()
		// That takes a mount, and in a container more: longer than writers are to wait.
		if r, can := pool.(backends.Resizer); can && made.Size > d.Size {
			later, made.Size = r, 0
		}
		if in, thaw, err = a.quiescer.Freeze(ctx, pool, d); err != nil {
			return nil, err
		}
	}
	jb.Step("cloning")
	size, err := pool.Clone(in, made, *op.Source, jb.Moved)
	// An earlier try that was cut short has made it, and its source was smaller then, and may be
	// larger by now than what is asked for.
	bounded := size > 0 || pool.Info().Capabilities.EnforcesSize // or its source had no size then
	if r, can := pool.(backends.Resizer); can && bounded && size < made.Size {
		later = r
	}
	if later != nil && size > op.Dataset.Size { // its source was resized since it was planned
		later = nil
	}
	if later == nil {
		op.Dataset.Size = size
	}
	return later, errors.Join(err, thaw())
}

// discard takes back a dataset that was made and is not on record.
func (a *Agent) discard(ctx context.Context, pool backends.Pool, id uuid.UUID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	return pool.Delete(ctx, id)
}
