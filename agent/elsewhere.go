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
