package agent

import (
	"context"
	"net/http"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// hold locks the dataset of an operation and checks that the operation is of the dataset's epoch. unlock is never nil,
// and the caller calls it whatever err is. With ErrOffline the pool is nil and d is set.
func (a *Agent) hold(ctx context.Context, op dataset.Operation, what string) (d dataset.Dataset, pool backends.Pool,
	unlock func(), err error) {
	unlock, err = a.Locks.Lock(ctx, op.DatasetID, what+" of volume "+op.Volume)
	if err != nil {
		return d, nil, func() {}, err
	}
	d, ok := a.Cache.Dataset(op.DatasetID)
	if !ok {
		if d, err = a.fetch(ctx, op.DatasetID); err != nil {
			return d, nil, unlock, err
		}
		if a.Cache.HasLeftSince(d) {
			return d, nil, unlock, dataset.Errorf(dataset.ErrStale,
				"volume %s: it went to another node after epoch %d, of which control speaks: its store may "+
					"have been put back (%s brings it up to date)", op.Volume, d.Epoch, a.mendStore())
		}
	}
	if d.Home != a.NodeID && d.Home != uuid.Nil {
		return d, nil, unlock, dataset.Errorf(dataset.ErrStale, "volume %s: its home is node %s by now", op.Volume,
			a.nodes.Name(d.Home))
	}
	if d.Epoch != op.Epoch {
		return d, nil, unlock, dataset.Errorf(dataset.ErrStale,
			"volume %s: the operation is of epoch %d, but this is epoch %d", op.Volume, op.Epoch, d.Epoch)
	}
	if err := a.leases.MayChange(d, string(op.Kind)); err != nil {
		return d, nil, unlock, err
	}
	pool, err = a.pools.Online(ctx, d.Pool)
	return d, pool, unlock, err
}

// fetch asks control for the record of a dataset that is not in the cache.
func (a *Agent) fetch(ctx context.Context, id uuid.UUID) (dataset.Dataset, error) {
	v, err := a.Control.Volume(ctx, id.String())
	if err == nil && v.ID != id {
		err = dataset.Errorf(dataset.ErrNotFound, "no dataset %s", id)
	}
	if err == nil && v.Home == a.NodeID && !a.Cache.HasLeftSince(v.Dataset) {
		a.Cache.Apply(v.Dataset, 0)
	}
	return v.Dataset, err
}

// note writes the record beside the dataset again, without a flush: the store has the record, and this copy is needed
// only if the store is lost.
func (a *Agent) note(ctx context.Context, pool backends.Pool, d dataset.Dataset) error {
	d.Written = a.Cache.Index(d.ID)
	return pool.WriteRecord(context.WithoutCancel(ctx), d, false)
}

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
