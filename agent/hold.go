package agent

import (
	"context"
	"net/http"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/dataset"
)

// purgeLater starts a job that destroys a dataset of state purging.
func (a *Agent) purgeLater(d dataset.Dataset) {
	op := dataset.Operation{
		ID: uuid.New(), Kind: dataset.OpPurge, Node: a.NodeID,
		Volume: d.Volume, DatasetID: d.ID, Epoch: d.Epoch, State: dataset.OpPending, Created: a.Clock.Now(),
	}
	a.background("purge/"+d.ID.String(), op)
}

// background starts a job that executes an operation.
func (a *Agent) background(key string, op dataset.Operation) {
	a.Jobs.Start(key, func(ctx context.Context, jb *jobs.Job) error {
		_, err := a.carryOut(ctx, jb, op)
		if err != nil && ctx.Err() == nil {
			level := logrus.ErrorLevel
			if dataset.KindOf(err).HTTP < http.StatusInternalServerError {
				level = logrus.InfoLevel // a refusal is no fault of this node
			}
			a.LogOf(dataset.Dataset{Volume: op.Volume, ID: op.DatasetID}).WithError(err).
				WithFields(map[string]any{"op": op.ID, "kind": op.Kind}).Log(level, "operation failed")
		}
		return nil // nobody waits for it
	})
}

// known asks control whether an operation is on record.
func (a *Agent) known(ctx context.Context, id uuid.UUID) (dataset.Operation, bool) {
	op, err := a.Control.Operation(ctx, id.String(), 0)
	return op, err == nil
}
