package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/promise"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/steps"
)

// goesByItself reports whether a promotion rests on the silence of the home, and not only on an operator's
// confirmation.
func goesByItself(op *dataset.Operation) bool { return op.Loss != nil && op.Loss.Away != 0 }

// swear makes sure that the previous epoch has ended before a promotion: no node has a promise of this one, and
// none gets one until control has reported the outcome. A home that still asks for promises is alive, whatever
// control knows of it.
func (m *moving) swear(ctx context.Context) error {
	a, op := m.a, m.op
	if !op.Dataset.Profile.Failover.Auto {
		return nil
	}
	m.jb.Step("waiting until it is certain that its last home writes no more")
	e := promise.Epoch{Dataset: op.DatasetID, Epoch: op.Epoch}
	until := a.Clock.Steady() + a.Limits.Lease
	for {
		_, span := a.Standing()
		holder, wait := a.keeper.Swear(e, span)
		if wait == 0 {
			steps.At("move.sworn")
			return nil
		}
		if a.Clock.Steady() >= until {
			if holder == uuid.Nil {
				return dataset.Errorf(dataset.ErrOffline,
					"move of volume %s: node %s has not heard of control for long enough (ask again)", op.Volume,
					a.NodeName)
			}
			if err := a.nodes.Refresh(ctx); err != nil {
				return err
			}
			return dataset.Errorf(dataset.ErrInUse,
				"volume %s is open on node %s, which is alive, but cut off from control (stop its "+
					"containers there first, or mend its way to control)", op.Volume, a.nodes.Name(holder))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.Clock.After(min(wait, max(until-a.Clock.Steady(), time.Millisecond))):
		}
	}
}

// fence runs the command of the profile that fences the last home, if there is one.
func (m *moving) fence(ctx context.Context) error {
	a, op := m.a, m.op
	f := op.Dataset.Profile.Failover.Fence
	if !goesByItself(op) || f.Kind != dataset.FenceExec {
		return nil
	}
	m.jb.Step("cutting its last home off")
	home, err := a.nodes.Peer(ctx, op.Loss.Fenced)
	if err == nil {
		err = a.programs.Check(f.Exec)
	}
	if err == nil {
		err = guard.ExecFence{Args: f.Exec, Timeout: time.Duration(f.Timeout)}.Fence(ctx, a.programs, home.Name,
			home.ID)
	}
	if err != nil {
		return fmt.Errorf("move of volume %s: its last home is not certain to be cut off: %w", op.Volume, err)
	}
	steps.At("move.fenced")
	return nil
}
