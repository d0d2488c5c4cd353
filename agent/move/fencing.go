package move

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/steps"
)

// blockPromises makes sure that the previous epoch has ended before a promotion: no promise of this node is valid any
// more, and this node makes none until control has reported the outcome. The wait matters because a home that still
// asks for promises is alive, even if control counts it as lost.
func (m *moveRun) blockPromises(ctx context.Context) error {
	op := m.op
	if !op.DatasetRecord.Profile.Failover.Auto {
		return nil
	}
	m.jb.Step("waiting until its last home can no longer write")
	e := lease.Epoch{Dataset: op.DatasetID, Epoch: op.Epoch}
	until := m.Clock.Steady() + m.Timing.InUseWait
	for {
		_, span := m.Leases.Deadlines.Session()
		holder, wait := m.Leases.Keeper.BlockPromises(e, span)
		if wait == 0 {
			steps.At("move.sworn")
			return nil
		}
		if m.Clock.Steady() >= until {
			if holder == uuid.Nil {
				return dataset.Errorf(dataset.ErrOffline,
					"move of volume %s: node %s has been cut off from control for too long (try again)", op.Volume,
					m.NodeName)
			}
			if err := m.Leases.Nodes.Refresh(ctx); err != nil {
				return err
			}
			return dataset.Errorf(dataset.ErrInUse,
				"volume %s is open on node %s, which is alive, but cut off from control (stop its containers "+
					"there first, or repair its connection to control)", op.Volume, m.Leases.Nodes.Name(holder))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.Clock.After(min(wait, max(until-m.Clock.Steady(), time.Millisecond))):
		}
	}
}

// fence runs the command of the profile that fences the last home. It does nothing if the profile has no command, or if
// an operator confirmed that the last home is fenced.
func (m *moveRun) fence(ctx context.Context) error {
	op := m.op
	f := op.DatasetRecord.Profile.Failover.Fence
	automatic := op.Loss != nil && op.Loss.UnreachableIndex != 0 // no operator confirmed anything
	if !automatic || f.Kind != dataset.FenceExec {
		return nil
	}
	m.jb.Step("fencing its last home")
	home, err := m.Leases.Nodes.Peer(ctx, op.Loss.PreviousHome)
	if err == nil {
		err = m.Keys.Programs.Check(f.Exec)
	}
	if err == nil {
		err = guard.ExecFence{Args: f.Exec, Timeout: time.Duration(f.Timeout)}.Fence(ctx, m.Keys.Programs, home.Name,
			home.ID)
	}
	if err != nil {
		return fmt.Errorf("move of volume %s: cannot fence its last home: %w", op.Volume, err)
	}
	steps.At("move.fenced")
	return nil
}
