package operation

import (
	"context"
	"errors"
	"time"

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

// maxSettleRetries is the longest wait between two attempts of settleSoon, as a multiple of Timing.Retry (5 minutes).
const maxSettleRetries = 300

// settleSoon starts the job of Settle for one conversion.
func (c *Converter) settleSoon(former, op uuid.UUID) *jobs.Job {
	return c.deps.Jobs.StartAgain("conversion/"+op.String(), func(ctx context.Context, _ *jobs.Job) error {
		var wait time.Duration
		var logged string
		for {
			readAll, err := c.settle(ctx, former, op)
			if err == nil || ctx.Err() != nil {
				return nil
			}
			if why := failureOf(err); why != logged {
				c.deps.Log.WithError(err).WithField("op", op).WithField("dataset", former).
					Warn("cannot find out or apply the outcome of a conversion; retrying")
				logged = why
			}
			wait = nextSettleWait(wait, c.deps.Timing.Retry, readAll)
			select {
			case <-ctx.Done():
				return nil
			case <-c.deps.Clock.After(wait):
			}
		}
	})
}

// failureOf returns a text that is the same for two errors of settle with the same cause, so that each cause is logged
// once. The text of an error of a connection can differ in each attempt, for example in a port.
func failureOf(err error) string {
	if errors.Is(err, dataset.ErrUnavailable) {
		return dataset.ErrUnavailable.Error()
	}
	return dataset.OneLine(err)
}

// nextSettleWait returns how long to wait after a failed attempt to settle a conversion. last is the previous wait, or
// 0. If control read all records of this node for the attempt (readAll), the wait doubles.
func nextSettleWait(last, retry time.Duration, readAll bool) time.Duration {
	if !readAll {
		return retry
	}
	return min(max(2*last, retry), maxSettleRetries*retry)
}

// settle asks control for the state of the operation of a reported conversion, and applies the outcome if the operation
// has ended. No record that this node already has can decide: it may be older than the report. While the operation is
// open, the report can still take effect. After the operation has ended, or once control does not know it any more,
// control refuses the report. readAll says that control was asked for all records of this node.
func (c *Converter) settle(ctx context.Context, former, op uuid.UUID) (readAll bool, err error) {
	r, is := c.deps.Conversions.noted(former, op)
	if !is || c.deps.Trust.Err() != nil {
		return false, nil
	}
	now, err := c.deps.Control.Operation(ctx, op.String(), 0)
	known := !errors.Is(err, dataset.ErrNotFound)
	if known && (err != nil || !now.State.Final()) {
		return false, err
	}
	for _, id := range []uuid.UUID{former, r.To} {
		unlock, err := c.deps.Locks.Lock(ctx, id, "end of the conversion of dataset "+former.String())
		if err != nil {
			return false, err
		}
		defer unlock()
	}
	if _, is := c.deps.Conversions.noted(former, op); !is {
		return false, nil // the attempt has ended meanwhile
	}
	if known && now.State != dataset.OpDone {
		return false, c.dropUnrecorded(ctx, former, r)
	}
	// Commit the dataset before control is asked for all records of this node, which is expensive. If the commit fails,
	// the attempt ends here.
	if _, _, _, err := c.commitMade(ctx, r.To); err != nil {
		return false, err
	}
	recorded, err := c.readRecords(ctx, former, r.To)
	if err != nil {
		return true, err
	}
	next, to, there, err := c.commitMade(ctx, r.To)
	switch {
	case err != nil:
		return true, err
	case !there && !known:
		return true, c.deps.Conversions.forget(ctx, former, op)
	case !there:
		return true, c.forgetRecorded(ctx, former, op, recorded)
	}
	return true, c.finish(ctx, former, op, recorded, next, to)
}

// commitMade puts the new dataset of a recorded conversion in its place, unless it is condemned. there is false if this
// node does not know the dataset. Idempotent.
func (c *Converter) commitMade(ctx context.Context, made uuid.UUID) (next dataset.Dataset, to backends.Pool, there bool,
	err error) {
	if next, there = c.deps.Cache.Dataset(made); !there {
		return next, nil, false, nil
	}
	to, err = c.deps.Pools.Get(next.Pool)
	if err == nil && next.State != dataset.StatePurging {
		err = to.Commit(ctx, next.ID)
	}
	return next, to, true, err
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

// finish transfers what this node knows about the volume from the former to the new dataset of a recorded conversion.
// The new dataset is ready in its pool. recorded is control's record of the former dataset, read after the conversion
// was recorded. Idempotent. After an error or a crash, Settle does this again. The locks of both datasets are held.
func (c *Converter) finish(ctx context.Context, former, op uuid.UUID, recorded api.Committed, made dataset.Dataset,
	to backends.Pool) error {
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
	return c.forgetRecorded(ctx, former, op, recorded)
}

// forgetRecorded records that control has recorded a conversion. Before that, a record of the former dataset that is
// not older than the conversion must be on disk: an agent that starts without control would mount the former dataset
// otherwise, under the name of the volume. recorded is as for finish. Its Dataset is nil if control's answer does not
// have the former dataset.
func (c *Converter) forgetRecorded(ctx context.Context, former, op uuid.UUID, recorded api.Committed) error {
	if d, known := c.deps.Cache.Dataset(former); known && isOlder(d, c.deps.Cache.Index(former), recorded) {
		return recordIsOld(former)
	}
	for range 2 {
		if err := c.deps.Cache.SaveChanged(ctx, c.deps.DB); err != nil {
			return err
		}
		var onDisk api.IndexedDataset
		there, err := c.deps.DB.Get(ctx, "volumes/"+former.String(), &onDisk)
		if err != nil {
			return err
		}
		if !there || !isOlder(onDisk.Dataset, onDisk.Index, recorded) {
			return c.deps.Conversions.forget(ctx, former, op)
		}
		// Another writer may have replaced the record by an older one, so write it again.
		c.deps.Cache.ReturnChanged(map[uuid.UUID]*api.IndexedDataset{former: nil})
	}
	return recordIsOld(former)
}

// isOlder reports whether a record of the former dataset of a conversion can be from before the conversion. The former
// dataset is ready again if it was restored from the trash since, so recorded decides.
func isOlder(d dataset.Dataset, index uint64, recorded api.Committed) bool {
	if d.State != dataset.StateReady {
		return false
	}
	return recorded.Dataset == nil || recorded.Dataset.State != dataset.StateReady || index < recorded.Index
}

func recordIsOld(former uuid.UUID) error {
	return dataset.Errorf(dataset.ErrPending,
		"dataset %s: control has converted it, and its new record is not on this node yet", former)
}
