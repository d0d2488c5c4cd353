package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// makeElsewhere has another node make a volume. Then errLost: who asked looks again, and
// finds the volume as anybody's.
func (a *Agent) makeElsewhere(ctx context.Context, jb *jobs.Job, req api.Request) (d dataset.Dataset, err error) {
	out, err := a.askElsewhere(ctx, jb, req)
	if err != nil {
		return d, err
	}
	if out.Operation == nil {
		return out.Volume.Dataset, nil // made meanwhile
	}
	if err := outcome(*out.Operation); err != nil {
		return d, fmt.Errorf("node %s: %w", short(out.Operation.Node), err)
	}
	return d, errLost
}

// askElsewhere puts an operation on record for another node's agent, and awaits its end
// for as long as it takes. It is returned as it ended; nil when there was nothing to do.
func (a *Agent) askElsewhere(ctx context.Context, jb *jobs.Job, req api.Request) (out api.Outcome, err error) {
	out, err = a.Control.Submit(ctx, req)
	if err != nil || out.Operation == nil {
		return out, err
	}
	op := *out.Operation
	follow(jb, op)
	jb.Begin(op)
	for !op.State.Final() {
		now, err := patient(ctx, a, func() (dataset.Operation, error) {
			return a.Control.Operation(ctx, op.ID.String(), syncWait)
		})
		if err == nil && now.State == dataset.OpPending && makes(req.Kind) {
			err = a.reconsider(ctx, now, req)
		}
		switch {
		case errors.Is(err, dataset.ErrNotFound):
			op.State = dataset.OpDone // long over
		case err != nil:
			return out, err
		default:
			op = now
			follow(jb, op)
		}
	}
	out.Operation = &op
	return out, nil
}

// reconsider takes back an operation that its node has not begun in a long while, when
// what was asked for would go to another node now, or nowhere: that one may be gone. The
// error is errLost, or why.
func (a *Agent) reconsider(ctx context.Context, op dataset.Operation, req api.Request) error {
	plan, err := a.plan(ctx, req)
	if errors.Is(err, dataset.ErrUnavailable) || err == nil && plan.Operation != nil && plan.Operation.Node == op.Node {
		return nil
	}
	if _, cerr := a.Control.CancelOperation(ctx, op.ID.String()); errors.Is(cerr, dataset.ErrConflict) {
		return nil // it has just ended
	} else if cerr != nil {
		return cerr
	}
	if err == nil {
		err = errLost
	}
	return err
}

// follow takes over how far another node's agent is.
func follow(jb *jobs.Job, op dataset.Operation) {
	at := "waits for node " + short(op.Node)
	if op.Progress.Step != "" {
		at = op.Progress.Step + " on node " + short(op.Node)
	}
	jb.Step(at)
	jb.Moved(op.Progress.Done, op.Progress.Total)
}

// outcome is the error of an operation that has ended; nil when it is done.
func outcome(op dataset.Operation) error {
	switch {
	case op.State == dataset.OpDone:
		return nil
	case op.Problem == nil:
		return dataset.Errorf(dataset.ErrInternal, "operation %s (%s of volume %s) is %s without a reason", op.ID, op.Kind, op.Volume, op.State)
	}
	return op.Problem.Err()
}

// makes reports whether a kind of operation makes a volume, which any node may do.
func makes(k dataset.OpKind) bool {
	return k == dataset.OpCreate || k == dataset.OpClone || k == dataset.OpImport
}

func short(id uuid.UUID) string { return id.String()[:8] }
