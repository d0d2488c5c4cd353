package operation

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/failurelog"
)

// ErrLost says that the caller must look the volume up again: another request or another node has made it, or control
// would now choose another node.
var ErrLost = errors.New("another request was first")

// makeElsewhere has another node make a volume. When the volume is made, makeElsewhere returns ErrLost, so that the
// caller looks the volume up as if another request had made it. If another request has made it before control plans
// this one, makeElsewhere returns the volume.
func (o *Operations) makeElsewhere(ctx context.Context, jb *host.Job, req api.Request) (d dataset.Dataset, err error) {
	out, err := o.executeElsewhere(ctx, jb, req)
	if err != nil {
		return d, err
	}
	if out.Operation == nil {
		return out.Volume.Dataset, nil // made meanwhile
	}
	if err := OutcomeError(*out.Operation); err != nil {
		return d, fmt.Errorf("node %s: %w", ShortID(out.Operation.Node), err)
	}
	return d, ErrLost
}

// executeElsewhere records an operation for another node's agent, and waits until the operation has ended, however long
// that takes. The result contains the ended operation. It contains no operation if there was nothing to do.
func (o *Operations) executeElsewhere(ctx context.Context, jb *host.Job, req api.Request) (out api.Outcome, err error) {
	out, err = o.Control.Submit(ctx, req)
	if err != nil || out.Operation == nil {
		return out, err
	}
	op := *out.Operation
	showProgress(jb, op)
	jb.SetOperation(op)
	for !op.State.Final() {
		now, err := host.UntilAnswered(ctx, o.Host, func() (dataset.Operation, error) {
			return o.Control.Operation(ctx, op.ID.String(), host.LongPoll)
		})
		if err == nil && now.State == dataset.OpPending && makesVolume(req.Kind) {
			err = o.cancelIfReplanned(ctx, now, req)
		}
		switch {
		case errors.Is(err, dataset.ErrNotFound):
			op.State = dataset.OpDone // control has removed the record of an operation that ended long ago
		case err != nil:
			return out, err
		default:
			op = now
			showProgress(jb, op)
		}
	}
	out.Operation = &op
	return out, nil
}

// cancelIfReplanned cancels an operation that its node has not started for a long time, if control would now plan the
// request differently: the node may be lost. It returns ErrLost if control would choose another node. If control
// would choose no node, it returns the error of control.
func (o *Operations) cancelIfReplanned(ctx context.Context, op dataset.Operation, req api.Request) error {
	plan, err := o.Plan(ctx, req)
	same := err == nil && plan.Operation != nil && plan.Operation.Node == op.Node
	if same || errors.Is(err, dataset.ErrUnavailable) {
		return nil
	}
	if _, cerr := o.Control.CancelOperation(ctx, op.ID.String()); errors.Is(cerr, dataset.ErrConflict) {
		return nil // it has just ended
	} else if cerr != nil {
		return cerr
	}
	if err == nil {
		err = ErrLost
	}
	return err
}

// Perform has control plan a request for an existing volume. It executes a plan for this node. If the plan is for
// another node, the agent of that node executes it.
func (o *Operations) Perform(ctx context.Context, req api.Request) error {
	what := fmt.Sprintf("%s of volume %s", req.Kind, req.Volume)
	if req.Kind == dataset.OpDelete && req.Name != "" {
		what = fmt.Sprintf("%s of volume %s", req.Kind, req.Name)
	}
	req.ID = uuid.New()
	_, err := o.Jobs.Do(ctx, "op/"+req.ID.String(), what, func(ctx context.Context, jb *host.Job) error {
		jb.Step("planning")
		plan, err := o.Plan(ctx, req)
		if err != nil || plan.Unchanged != nil {
			return err
		}
		if plan.Operation.Node != o.NodeID {
			out, err := o.executeElsewhere(ctx, jb, req)
			if err != nil || out.Operation == nil {
				return err
			}
			return OutcomeError(*out.Operation)
		}
		_, err = o.Execute(ctx, jb, *plan.Operation)
		return err
	})
	return err
}

// showProgress shows the progress of another node's agent in a job.
func showProgress(jb *host.Job, op dataset.Operation) {
	at := "waits for node " + ShortID(op.Node)
	if op.Progress.Step != "" {
		at = op.Progress.Step + " on node " + ShortID(op.Node)
	}
	jb.Step(at)
	jb.SetProgress(op.Progress.Done, op.Progress.Total)
}

// OutcomeError returns the error with which an operation ended, or nil if it succeeded. The agent that carried out the
// operation has logged it.
func OutcomeError(op dataset.Operation) error {
	switch {
	case op.State == dataset.OpDone:
		return nil
	case op.Problem == nil:
		return dataset.Errorf(dataset.ErrInternal, "operation %s (%s of volume %s) is %s, and no reason was recorded",
			op.ID, op.Kind, op.Volume, op.State)
	}
	return failurelog.MarkLogged(op.Problem.Err())
}

// makesVolume reports whether a kind of operation makes a volume. Any node may execute such an operation.
func makesVolume(k dataset.OpKind) bool {
	return k == dataset.OpCreate || k == dataset.OpClone || k == dataset.OpImport
}

// ShortID returns the first eight characters of a UUID, for messages.
func ShortID(id uuid.UUID) string { return id.String()[:8] }
