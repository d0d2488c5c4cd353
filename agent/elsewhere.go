package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// makeElsewhere has another node make a volume: the operation goes on record for that
// node's agent, and its end is awaited for as long as it takes. Then errLost: who asked
// looks again, and finds the volume as anybody's.
func (a *Agent) makeElsewhere(ctx context.Context, jb *job, req api.Request) (d dataset.Dataset, err error) {
	out, err := a.Control.Submit(ctx, req)
	if err != nil {
		return d, err
	}
	if out.Operation == nil {
		return out.Volume.Dataset, nil // made meanwhile
	}
	op := *out.Operation
	jb.follow(op)
	jb.begin(op)
	for !op.State.Final() {
		now, err := a.Control.Operation(ctx, op.ID.String(), syncWait)
		if err == nil && now.State == dataset.OpPending {
			err = a.reconsider(ctx, now, req)
		}
		switch {
		case err == nil:
			op = now
			jb.follow(op)
		case errors.Is(err, dataset.ErrNotFound):
			return d, errLost // long over
		case !errors.Is(err, dataset.ErrUnavailable):
			return d, err
		default:
			select {
			case <-ctx.Done():
				return d, ctx.Err()
			case <-a.Clock.After(a.Limits.Retry):
			}
		}
	}
	if op.State == dataset.OpDone {
		return d, errLost
	}
	return d, fmt.Errorf("node %s: %w", short(op.Node), op.Problem.Err())
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
func (jb *job) follow(op dataset.Operation) {
	at := "waits for node " + short(op.Node)
	if op.Progress.Step != "" {
		at = op.Progress.Step + " on node " + short(op.Node)
	}
	jb.step(at)
	jb.moved(op.Progress.Done, op.Progress.Total)
}

func short(id uuid.UUID) string { return id.String()[:8] }
