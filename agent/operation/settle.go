package operation

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// Settle starts a job for each conversion whose outcome may be unknown and that does not run. A job ends when the
// outcome is known and has been applied on this node, or when control still works on the operation. Control sends an
// answer when an operation ends, so call Settle after each answer that was applied.
func (c *Converter) Settle() (started []*jobs.Job) {
	if c.deps.Trust.Err() != nil {
		return nil // a store that was restored from a backup may not know the operation
	}
	for former, r := range c.deps.Conversions.idle() {
		started = append(started, c.settleSoon(former, r.Operation))
	}
	return started
}

// settleSoon starts the job of Settle for one conversion.
func (c *Converter) settleSoon(former, op uuid.UUID) *jobs.Job {
	return c.deps.Jobs.StartAgain("conversion/"+op.String(), func(ctx context.Context, _ *jobs.Job) error {
		for first := true; ; first = false {
			err := c.settle(ctx, former, op)
			if err == nil || ctx.Err() != nil {
				return nil
			}
			if first {
				c.deps.Log.WithError(err).WithField("op", op).WithField("dataset", former).
					Warn("cannot find out or apply the outcome of a conversion; retrying")
			}
			select {
			case <-ctx.Done():
				return nil
			case <-c.deps.Clock.After(c.deps.Timing.Retry):
			}
		}
	})
}

// settle asks control for the state of the operation of a reported conversion, and applies the outcome if the operation
// has ended. No record that this node already has can decide: it may be older than the report. While the operation is
// open, the report can still take effect. After the operation has ended, or once control does not know it any more,
// control refuses the report.
func (c *Converter) settle(ctx context.Context, former, op uuid.UUID) error {
	r, is := c.deps.Conversions.noted(former, op)
	if !is || c.deps.Trust.Err() != nil {
		return nil
	}
	now, err := c.deps.Control.Operation(ctx, op.String(), 0)
	known := !errors.Is(err, dataset.ErrNotFound)
	if known && (err != nil || !now.State.Final()) {
		return err
	}
	for _, id := range []uuid.UUID{former, r.To} {
		unlock, err := c.deps.Locks.Lock(ctx, id, "end of the conversion of dataset "+former.String())
		if err != nil {
			return err
		}
		defer unlock()
	}
	if _, is := c.deps.Conversions.noted(former, op); !is {
		return nil // the attempt has ended meanwhile
	}
	if known && now.State != dataset.OpDone {
		return c.dropUnrecorded(ctx, former, r)
	}
	if _, err := c.readRecords(ctx, former, r.To); err != nil {
		return err
	}
	next, there := c.deps.Cache.Dataset(r.To)
	switch {
	case !there && !known:
		return c.deps.Conversions.forget(ctx, former, op)
	case !there:
		return c.forgetRecorded(ctx, former, op)
	}
	to, err := c.deps.Pools.Get(next.Pool)
	if err != nil {
		return err
	}
	if next.State != dataset.StatePurging {
		if err := to.Commit(ctx, next.ID); err != nil {
			return err
		}
	}
	return c.finish(ctx, former, op, next, to)
}

// dropUnrecorded is drop for an attempt that has ended. If the pool of the new dataset is offline, the former dataset
// can be mounted nevertheless, and a later start of the agent removes the new one.
func (c *Converter) dropUnrecorded(ctx context.Context, former uuid.UUID, r reportedConversion) error {
	if r.Made != nil {
		if to, err := c.deps.Pools.Get(r.Made.Pool); err == nil {
			err := c.drop(ctx, former, r.Operation, r.To, to)
			if err != nil && !c.deps.Conversions.IsInDoubt(former) {
				c.deps.LogOf(ctx, *r.Made).WithError(err).Warn("cannot remove the copy of a conversion that failed")
				return nil
			}
			return err
		}
	}
	return c.deps.Conversions.forget(ctx, former, r.Operation)
}

// readRecords reads control's records of the former and the new dataset of a conversion, and applies them to the cache.
// It returns that of the former one.
func (c *Converter) readRecords(ctx context.Context, former, made uuid.UUID) (out api.Committed, err error) {
	s, err := c.deps.Control.Sync(ctx, c.deps.NodeID, 0, 0)
	if err != nil {
		return out, err
	}
	for _, d := range s.Datasets {
		if d.ID != former && d.ID != made {
			continue
		}
		c.deps.Cache.Apply(d.Dataset, d.Index)
		if d.ID == former {
			out = api.Committed{Dataset: &d.Dataset, Index: d.Index}
		}
	}
	return out, nil
}

// finish moves to the new dataset of a recorded conversion, which is ready in its pool, what this node knows about the
// volume. Idempotent. After an error or a crash, Settle does this again. The locks of both datasets are held.
func (c *Converter) finish(ctx context.Context, former, op uuid.UUID, made dataset.Dataset, to backends.Pool) error {
	steps.At("convert.committed")
	next, known := c.deps.Cache.Dataset(made.ID)
	if !known {
		var err error
		if next, err = c.deps.FetchDataset(ctx, made.ID); err != nil {
			return err
		}
	}
	if next.State == dataset.StateReady {
		c.deps.Records.Write(ctx, to, next)
		if err := c.deps.MoveSpellings(ctx, former, next); err != nil {
			return err
		}
	}
	if d, known := c.deps.Cache.Dataset(former); known {
		c.deps.Records.WriteLater(api.IndexedDataset{Dataset: d, Index: c.deps.Cache.Index(former)})
	}
	if err := mounting.RemoveMountPoint(c.deps.MountPath(former)); err != nil {
		c.deps.LogOf(ctx, next).WithError(err).Warn("cannot remove the mount point of the former dataset")
	}
	c.deps.PoolChanged(next.Pool, false)
	c.deps.News.Changed(next.ID)
	return c.forgetRecorded(ctx, former, op)
}

// forgetRecorded records that control has recorded a conversion. Before that, the record of the former dataset must be
// on disk: an agent that starts without control would mount the former dataset otherwise.
func (c *Converter) forgetRecorded(ctx context.Context, former, op uuid.UUID) error {
	if err := c.deps.Cache.SaveChanged(ctx, c.deps.DB); err != nil {
		return err
	}
	var onDisk api.IndexedDataset
	there, err := c.deps.DB.Get(ctx, "volumes/"+former.String(), &onDisk)
	if err != nil {
		return err
	}
	if d, known := c.deps.Cache.Dataset(former); known && d.State == dataset.StateReady ||
		there && onDisk.State == dataset.StateReady {
		return dataset.Errorf(dataset.ErrUnavailable,
			"dataset %s: control has converted it, and its new record is not on this node yet", former)
	}
	return c.deps.Conversions.forget(ctx, former, op)
}
