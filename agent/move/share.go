package move

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// checkOnShare fails unless this node sees the dataset on the share. By their records, the pool here and the pool of
// the home are on the same share, but this node may have mounted another one. Without the check, control would record
// this node as the home of a dataset that it cannot take over. If the lost home never took the dataset over from the
// previous home, checkOnShare selects the pool of the previous home.
func (m *moveRun) checkOnShare(ctx context.Context) error {
	sharer, can := m.pool.(backends.Sharer)
	if !can {
		return dataset.Errorf(dataset.ErrUnsupported, "move of volume %s: pool %s is on no share", m.op.Volume,
			m.Pools.Name(m.op.DatasetRecord.Pool))
	}
	m.op.DatasetRecord.TakenOver = &dataset.TakenOver{FromPool: m.givingPool, Epoch: m.op.Epoch}
	err := sharer.CheckVisible(ctx, m.op.DatasetID, m.givingPool)
	if errors.Is(err, dataset.ErrNotFound) && m.takenOver != nil &&
		sharer.CheckVisible(ctx, m.op.DatasetID, m.takenOver.FromPool) == nil {
		m.LogOf(ctx, *m.op.DatasetRecord).WithField("from",
			m.takenOver.FromPool).Warn("its home had not taken it yet: taking it from the pool of the previous home")
		m.givingPool, m.op.DatasetRecord.TakenOver = m.takenOver.FromPool, m.takenOver
		return nil
	}
	if errors.Is(err, dataset.ErrNotFound) {
		return dataset.Errorf(dataset.ErrOffline,
			"move of volume %s: node %s has mounted another share than that of the volume: %w (mount the same "+
				"one there)", m.op.Volume, m.NodeName, err)
	}
	return err
}

// findGivingPool finds the pool on the share in which the home has the dataset. Other pools on the share may have
// older data of the dataset: earlier homes left it there when the dataset moved off the share.
func (m *moveRun) findGivingPool(ctx context.Context) error {
	v, err := host.UntilAnswered(ctx, m.Host,
		func() (api.Volume, error) { return m.Control.Volume(ctx, m.op.DatasetID.String()) })
	if err == nil && v.Home != m.op.OtherNode {
		err = dataset.Errorf(dataset.ErrConflict, "its home is no longer node %s", operation.ShortID(m.op.OtherNode))
	}
	if err != nil {
		return fmt.Errorf("move of volume %s: %w", m.op.Volume, err)
	}
	if m.givingPool = v.Pool; m.op.Loss != nil {
		m.takenOver = v.TakenOver
	}
	return nil
}

// ClearTarget destroys older data of a dataset in the target pool before control records this node as the home. That
// data can be from an earlier home, or from a move that copied file by file. ClearTarget fails with ErrConflict if
// the data may be the present data of the volume. The dataset's lock is held.
func (m *Moves) ClearTarget(ctx context.Context, pool backends.Pool, op *dataset.Operation, givingPool uuid.UUID,
	takenOver *dataset.TakenOver) error {
	here := givingPool == op.DatasetRecord.Pool
	if here && (takenOver == nil || takenOver.FromPool != givingPool) {
		return dataset.Errorf(dataset.ErrConflict,
			"pool %s is the pool that already has it (drover pool adopt PATH here makes this node its home)",
			m.Pools.Name(givingPool))
	}
	e, err := pool.Stat(ctx, op.DatasetID)
	switch {
	case errors.Is(err, dataset.ErrNotFound) && !here:
		err = nil // Stat does not find incomplete data either: Delete removes it
	case err == nil && here && (e.Record == nil || e.Record.Epoch < takenOver.Epoch):
		err = dataset.Errorf(dataset.ErrConflict, "it is older than the data of the previous home")
	case err == nil && !here && (e.Record == nil || e.Record.Epoch > op.Epoch):
		err = dataset.Errorf(dataset.ErrConflict, "it may be newer than what its home gave up")
	}
	if err != nil {
		return fmt.Errorf("its data in pool %s (%s): %w", m.Pools.Name(op.DatasetRecord.Pool), e.Path, err)
	}
	if here { // this data is the volume: no later home has taken it over
		return nil
	}
	return pool.Delete(ctx, op.DatasetID)
}
