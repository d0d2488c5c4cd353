package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// putOnRecord makes long work an operation that people can watch.
func (a *Agent) putOnRecord(ctx context.Context, op dataset.Operation) {
	if ctx.Err() != nil {
		return
	}
	a.setInDoubt(op.ID, true)
	err := a.Control.Record(ctx, a.NodeID, api.Report{Incarnation: a.Incarnation, Operation: op})
	if err == nil || ctx.Err() == nil && !inDoubt(err) {
		a.setInDoubt(op.ID, false)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.running[op.ID]; r != nil && err == nil {
		r.recorded = true
	} else if err != nil && ctx.Err() == nil {
		a.Log.WithError(err).WithField("op", op.ID).Warn("long operation was not put on record")
	}
}

// report has control put the outcome on record, and asks again as long as control
// is away: what was done must not be left in doubt.
func (a *Agent) report(ctx context.Context, op *dataset.Operation) (api.Committed, error) {
	op.Incarnation = a.Incarnation
	mayArrive := a.settleRecord(op.ID)
	for again := false; ; again = true {
		out, err := a.Control.Commit(ctx, a.NodeID, api.Report{Incarnation: a.Incarnation, Operation: *op, Again: again || mayArrive})
		if errors.Is(err, dataset.ErrUnavailable) {
			a.setInDoubt(op.ID, true)
		}
		if !errors.Is(err, dataset.ErrUnavailable) {
			if err != nil && again && !errors.Is(err, dataset.ErrCancelled) {
				// The report that was not answered may have been taken, and its outcome
				// be what this one was refused for.
				err = dataset.Errorf(dataset.ErrUnavailable, "%w", err)
			}
			return out, err
		}
		select {
		case <-ctx.Done():
			return out, fmt.Errorf("%w (%w)", err, ctx.Err())
		case <-a.Ctx.Done():
			return out, err
		case <-a.Clock.After(a.Limits.Retry):
		}
	}
}

// settleRecord ends the request to put an operation on record. It reports whether such a request was sent and
// not answered, so that it may still arrive. If it arrived after the Commit, the operation would begin again,
// and a create that had lost its name would make a volume that nobody asked for.
func (a *Agent) settleRecord(op uuid.UUID) (mayArrive bool) {
	a.mu.Lock()
	r := a.running[op]
	a.mu.Unlock()
	if r == nil {
		return false
	}
	r.settle()
	a.mu.Lock()
	defer a.mu.Unlock()
	return r.inDoubt
}

// setInDoubt notes whether a report of an operation was sent that control has not answered.
func (a *Agent) setInDoubt(op uuid.UUID, inDoubt bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.running[op]; r != nil {
		r.inDoubt = inDoubt
	}
}

// inDoubt reports whether a commit that failed so may have happened: a store
// whose disk is full has not flushed it, but may yet find it there.
func inDoubt(err error) bool {
	return errors.Is(err, dataset.ErrUnavailable) || errors.Is(err, dataset.ErrNoSpace) || errors.Is(err, context.Canceled) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, dataset.ErrInternal) || dataset.KindOf(err) == dataset.ErrInternal
}
