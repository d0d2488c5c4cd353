package move

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
)

// Move makes this node the home of a dataset whose home is another node. After a crash Move starts again: copied data
// is kept, and each step is idempotent.
func (m *Moves) Move(ctx context.Context, jb *host.Job, op *dataset.Operation) (out api.Committed, err error) {
	pool, err := m.Pools.Online(ctx, op.DatasetRecord.Pool)
	if err != nil {
		return out, fmt.Errorf("move of volume %s: %w", op.Volume, err)
	}
	if err := m.Pools.CheckRootSpace(ctx); err != nil {
		return out, fmt.Errorf("move of volume %s: %w", op.Volume, err)
	}
	if err := m.Keys.CanOpen(ctx, *op.DatasetRecord); err != nil {
		return out, fmt.Errorf("move of volume %s: %w", op.Volume, err)
	}
	if op.FileCopy || op.SameShare {
		// Both kinds remove data here. A former head may have data that no snapshot has, so reconcile it first.
		if err := m.Copies.Reconcile(ctx, op.DatasetID); err != nil {
			return out, fmt.Errorf("move of volume %s: %w", op.Volume, err)
		}
	}
	if err := m.CheckSuperseded(ctx, pool, op); err != nil {
		return out, err
	}
	run := &moveRun{Moves: m, jb: jb, op: op, pool: pool}
	defer m.MoveTable.Begin(op.DatasetID)()
	if op.SameShare {
		if err := run.findGivingPool(ctx); err != nil {
			return out, err
		}
	}
	if op.Loss != nil {
		if err := run.blockPromises(ctx); err != nil {
			return out, err
		}
		if err := run.fence(ctx); err != nil {
			return out, err
		}
		return run.promote(ctx)
	}
	if run.home, err = m.Leases.Nodes.Peer(ctx, op.OtherNode); err != nil {
		return out, fmt.Errorf("move of volume %s: %w", op.Volume, err)
	}
	steps.At("move.begin")
	if was, _ := m.MoveTable.Get(op.DatasetID); was.Move != op.ID {
		if err := m.DropBeside(ctx, was); err != nil {
			return out, fmt.Errorf("move of volume %s: data of another move: %w", op.Volume, err)
		}
	}
	if err := m.MoveTable.Set(ctx, op.DatasetID, run.recordOf(uuid.Nil)); err != nil {
		return out, err
	}
	if err := run.copyInUse(ctx); err != nil {
		return out, err
	}
	if err := run.recall(ctx); err != nil {
		return out, err
	}
	if err := run.copyRest(ctx); err != nil {
		return out, err
	}
	return run.promote(ctx)
}

// CheckSuperseded refuses a move to a node that has data which the volume lacks, because the move would remove that
// data.
func (m *Moves) CheckSuperseded(ctx context.Context, pool backends.Pool, op *dataset.Operation) error {
	k, kept := m.Cache.Copy(op.DatasetID)
	if !kept {
		return nil
	}
	superseded := k.Kind == dataset.CopySuperseded
	if !superseded && op.Loss == nil {
		k.Record = op.DatasetRecord
		keep, err := host.UnrecordedLoss(ctx, pool, k)
		if err != nil {
			return fmt.Errorf("move of volume %s: %w", op.Volume, err)
		}
		superseded = keep.ID != uuid.Nil
	}
	if op.FileCopy && !superseded { // a superseded head may be here that control does not know yet
		e, err := pool.Stat(ctx, op.DatasetID)
		if err != nil && !errors.Is(err, dataset.ErrNotFound) {
			return fmt.Errorf("move of volume %s: %w", op.Volume, err)
		}
		_, superseded = host.Newest(e, func(s dataset.Snapshot) bool { return s.Kind == dataset.SnapshotSuperseded })
	}
	if superseded {
		return dataset.Errorf(dataset.ErrConflict,
			"move of volume %s: node %s has a superseded copy of it (drover copy ls; discard it "+
				"first)", op.Volume, m.NodeName)
	}
	return nil
}
