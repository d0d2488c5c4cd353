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

// ExecutorDeps is what Executor needs of other components.
type ExecutorDeps struct {
	*host.Host
	Operations  *Runner
	Handlers    map[dataset.OpKind]Handler // by the kind of operation
	PoolChanged func(id uuid.UUID, home bool)
}

// Executor executes the operations of this node by their kind. Its methods are safe for concurrent use.
type Executor struct {
	deps ExecutorDeps
}

// NewExecutor returns an Executor.
func NewExecutor(deps ExecutorDeps) *Executor { return &Executor{deps} }

// Kinds returns the kinds of operations that this agent executes, for the metrics.
func (x *Executor) Kinds() []dataset.OpKind { return slices.Sorted(maps.Keys(x.deps.Handlers)) }

// Execute executes an operation and has control record the outcome. It can be called again for the same operation
// after a crash, because each handler is idempotent by the UUIDs in the operation.
func (x *Executor) Execute(ctx context.Context, jb *host.Job, op dataset.Operation) (out api.Committed, err error) {
	if requestid.Of(ctx) == "" {
		ctx = requestid.WithBy(requestid.With(ctx, op.RequestID), op.By)
	}
	act := x.Handler(op.Kind)
	err = x.deps.Operations.Run(ctx, jb, op, func(ctx context.Context, op *dataset.Operation) error {
		out, err = act(ctx, jb, op)
		return err
	})
	if err != nil {
		return out, err
	}
	if out.Dataset != nil && !out.Duplicate {
		x.deps.PoolChanged(out.Dataset.Pool, op.Kind == dataset.OpMove)
	}
	x.deps.LogOf(ctx, dataset.Dataset{Volume: op.Volume, ID: op.DatasetID}).
		WithFields(map[string]any{"op": op.ID, "kind": op.Kind}).Info("operation is done")
	x.deps.News.Changed(op.DatasetID)
	return out, nil
}

// Handler returns the function that executes operations of a kind. For a kind that this agent does not know, the
// function fails with ErrUnsupported.
func (x *Executor) Handler(kind dataset.OpKind) Handler {
	if act, known := x.deps.Handlers[kind]; known {
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
func (x *Executor) PurgeLater(d dataset.Dataset) {
	x.deps.Jobs.StartAgain("purge/"+d.ID.String(), func(ctx context.Context, jb *host.Job) error {
		d, known := x.deps.Cache.Dataset(d.ID)
		if !known || d.State != dataset.StatePurging || d.Home != x.deps.NodeID {
			return nil
		}
		_, err := x.Execute(ctx, jb, dataset.Operation{
			ID: uuid.New(), Kind: dataset.OpPurge, Node: x.deps.NodeID,
			Volume: d.Volume, DatasetID: d.ID, Epoch: d.Epoch, State: dataset.OpPending, Created: x.deps.Clock.Now(),
		})
		return err // Execute has logged it, and no caller waits for the job
	})
}

// Start starts a job that executes an operation.
func (x *Executor) Start(key string, op dataset.Operation) {
	x.deps.Jobs.Start(key, func(ctx context.Context, jb *host.Job) error {
		_, err := x.Execute(ctx, jb, op)
		return err // Execute has logged it, and no caller waits for the job
	})
}

// PurgeAll starts to destroy the datasets of state purging whose home is this node.
func (x *Executor) PurgeAll() {
	for _, id := range x.deps.Cache.IDs() {
		if d, ok := x.deps.Cache.Dataset(id); ok && d.State == dataset.StatePurging && d.Home == x.deps.NodeID {
			x.PurgeLater(d)
		}
	}
}
