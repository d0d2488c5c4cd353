package operation

import (
	"context"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/requestid"
)

// Handler executes an operation of one kind, and has control record the outcome. It is idempotent by the UUIDs in the
// operation.
type Handler func(ctx context.Context, jb *host.Job, op *dataset.Operation) (api.Committed, error)

// Kinds returns the kinds of operations that this agent executes, for the metrics.
func (o *Operations) Kinds() []dataset.OpKind { return slices.Sorted(maps.Keys(o.handlers)) }

// Execute executes an operation and has control record the outcome. It can be called again for the same operation
// after a crash, because each handler is idempotent by the UUIDs in the operation.
func (o *Operations) Execute(ctx context.Context, jb *host.Job, op dataset.Operation) (out api.Committed, err error) {
	if requestid.Of(ctx) == "" {
		ctx = requestid.WithBy(requestid.With(ctx, op.RequestID), op.By)
	}
	act := o.Handler(op.Kind)
	err = o.Runner.Run(ctx, jb, op, func(ctx context.Context, op *dataset.Operation) error {
		out, err = act(ctx, jb, op)
		return err
	})
	if err != nil {
		return out, err
	}
	if out.Dataset != nil && !out.Duplicate {
		o.Pools.MarkChanged(out.Dataset.Pool, op.Kind == dataset.OpMove)
	}
	o.LogOf(ctx, dataset.Dataset{Volume: op.Volume, ID: op.DatasetID}).
		WithFields(map[string]any{"op": op.ID, "kind": op.Kind}).Info("operation is done")
	o.News.Changed(op.DatasetID)
	return out, nil
}

// Handler returns the function that executes operations of a kind. For a kind that this agent does not know, the
// function fails with ErrUnsupported.
func (o *Operations) Handler(kind dataset.OpKind) Handler {
	if act, known := o.handlers[kind]; known {
		return act
	}
	// Record the failure. Otherwise each sync would start the operation again.
	return func(_ context.Context, _ *host.Job, op *dataset.Operation) (out api.Committed, err error) {
		return out, dataset.Errorf(dataset.ErrUnsupported,
			"operation %s: this agent cannot do %q (is its drover the same as that of control?)", op.ID, op.Kind)
	}
}

// PurgeLater starts a job that destroys a dataset of state purging. If one is in progress, it runs once more
// afterwards, because the record of the dataset may have changed.
func (o *Operations) PurgeLater(d dataset.Dataset) {
	o.Jobs.StartAgain("purge/"+d.ID.String(), func(ctx context.Context, jb *host.Job) error {
		d, known := o.Cache.Dataset(d.ID)
		if !known || d.State != dataset.StatePurging || d.Home != o.NodeID {
			return nil
		}
		_, err := o.Execute(ctx, jb, dataset.Operation{
			ID: uuid.New(), Kind: dataset.OpPurge, Node: o.NodeID,
			Volume: d.Volume, DatasetID: d.ID, Epoch: d.Epoch, State: dataset.OpPending, Created: o.Clock.Now(),
		})
		return err // Execute has logged it, and no caller waits for the job
	})
}

// ExecuteSoon starts a job that executes an operation.
func (o *Operations) ExecuteSoon(key string, op dataset.Operation) {
	o.Jobs.Start(key, func(ctx context.Context, jb *host.Job) error {
		_, err := o.Execute(ctx, jb, op)
		return err // Execute has logged it, and no caller waits for the job
	})
}

// PurgeAll starts to destroy the datasets of state purging whose home is this node.
func (o *Operations) PurgeAll() {
	for _, id := range o.Cache.IDs() {
		if d, ok := o.Cache.Dataset(id); ok && d.State == dataset.StatePurging && d.Home == o.NodeID {
			o.PurgeLater(d)
		}
	}
}
