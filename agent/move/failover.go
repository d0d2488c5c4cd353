package move

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// TakeOver lets a volume with failover auto continue from a copy when its home is lost, here or on the node with the
// newest copy. It waits for the end of the failover as long as a request may take, and returns the present record. If
// the home answers, it does nothing.
//
// It fails with ErrPending and names the operation if the failover still runs. It fails with ErrInUse and names the
// node if a node that control cannot reach has the volume open. It fails with ErrOffline if no node takes over, with
// the reason and the user's options.
func (m *Moves) TakeOver(ctx context.Context, d dataset.Dataset) (dataset.Dataset, error) {
	until := m.Clock.Steady() + m.Timing.MoveWait
	for {
		op, lost, err := m.requestFailover(ctx, d)
		if err == nil && lost {
			err = m.AwaitMove(ctx, op, until)
		}
		if err == nil && !lost {
			err = m.checkHome(ctx, d)
		}
		// The home may be reachable again, or the volume may continue from another copy.
		again := errors.Is(err, dataset.ErrPending) && !lost || errors.Is(err, dataset.ErrConflict) && lost
		if err != nil && !again {
			return d, err
		}
		if err == nil {
			now, err := m.Locate(ctx, d)
			if err != nil || !lost || now.Home == m.NodeID {
				return now, err
			}
			d = now // its home is another node now, which is examined next
			continue
		}
		if m.Clock.Steady() >= until {
			return d, dataset.Errorf(dataset.ErrOffline, "mount of volume %s: %w (try again)", d.Volume, err)
		}
		select {
		case <-ctx.Done():
			return d, ctx.Err()
		case <-m.Clock.After(m.Timing.Retry):
		}
	}
}

// requestFailover asks control to let a copy take over. lost reports whether the home is lost. If it is, op is the
// operation that control has started.
func (m *Moves) requestFailover(ctx context.Context, d dataset.Dataset) (op dataset.Operation, lost bool, err error) {
	out, err := m.Control.Submit(ctx, api.Request{
		ID:       uuid.New(),
		Kind:     dataset.OpMove,
		Volume:   d.ID.String(),
		Node:     m.NodeID.String(),
		Failover: true,
	})
	if err != nil || out.Operation == nil {
		return op, false, err
	}
	op = *out.Operation
	loss := "; no data is lost, because it is on a share"
	if !op.SameShare {
		loss = "; data written since " + op.Loss.Taken.UTC().Format(time.RFC3339) + " is not in the copy"
	}
	m.LogOf(ctx, d).WithField("op", op.ID).Warn("volume continues without its home: " + op.Loss.Reason + loss)
	return op, true, nil
}

// answerTime is how long the agent of a home has to answer.
const answerTime = 3 * time.Second

// checkHome fails with ErrPending if the agent of a home does not answer although control counts its node as alive.
// That node may be lost without control having noticed it yet. A move from that node would have to wait until control
// notices the loss.
func (m *Moves) checkHome(ctx context.Context, d dataset.Dataset) error {
	if m.Leases.Peers == nil {
		return nil
	}
	now, err := m.Locate(ctx, d)
	if err != nil || now.Home == m.NodeID {
		return err
	}
	home, err := m.Leases.Nodes.Peer(ctx, now.Home)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	if _, err := lease.Ask(ctx, m.Leases.Peers, home.Address, home.ID,
		lease.Request{Incarnation: m.Incarnation}); errors.Is(err, dataset.ErrOffline) {
		return dataset.Errorf(dataset.ErrPending,
			"node %s, which has it, does not respond, and control considers it alive", home.Name)
	}
	return nil
}

// Locate returns the present record of a dataset: that of this node if this node is the home, and that of control
// otherwise.
func (m *Moves) Locate(ctx context.Context, d dataset.Dataset) (dataset.Dataset, error) {
	if now, here := m.Cache.Dataset(d.ID); here {
		return now, nil
	}
	now, err := m.FetchDataset(ctx, d.ID)
	if errors.Is(err, dataset.ErrNotFound) {
		err = dataset.Errorf(dataset.ErrNotFound, "volume %s was deleted", d.Volume)
	}
	return now, err
}

// AwaitMove waits for the end of a move, and returns the error with which the move ended. until is a time of the steady
// clock. AwaitMove fails with ErrPending at that time, or when ctx ends.
func (m *Moves) AwaitMove(ctx context.Context, op dataset.Operation, until time.Duration) error {
	for !op.State.Final() {
		left := until - m.Clock.Steady()
		if left <= 0 || ctx.Err() != nil {
			return host.Pending("mount of volume "+op.Volume, op.ID, op.Progress)
		}
		next, err := m.Control.Operation(ctx, op.ID.String(), min(left, host.LongPoll))
		switch {
		case err != nil && ctx.Err() != nil:
		case err != nil:
			return fmt.Errorf("mount of volume %s: its move continues as operation %s: %w", op.Volume,
				op.ID.String()[:8], err)
		default:
			op = next
		}
	}
	return operation.OutcomeError(op)
}
