package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/lineage"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// bring moves a volume here whose home is another node, if its profile allows that without a command, and waits
// for the move. Several mounts at the same time wait for one move. It returns the record with this node as the
// home.
//
// If the profile does not allow it, bring fails with ErrUnsupported and names the command. It fails with
// ErrPending and the progress if the move takes longer than the request may. Otherwise it returns the error of
// the move, such as ErrInUse with the node and the mount IDs that use the volume.
func (a *Agent) bring(ctx context.Context, d dataset.Dataset) (dataset.Dataset, error) {
	if d.Profile.Failover.Auto {
		now, err := a.failover.TakeOver(ctx, d)
		if err != nil || now.Home == a.NodeID {
			return now, err
		}
		d = now
	}
	if d.Move == uuid.Nil { // a move that has begun is joined, whoever began it
		if err := a.mayFollow(ctx, d); err != nil {
			return d, err
		}
	}
	out, err := a.Control.Submit(ctx, api.Request{
		ID:     uuid.New(),
		Kind:   dataset.OpMove,
		Volume: d.ID.String(),
		Node:   a.NodeID.String(),
	})
	if err != nil {
		return d, err
	}
	if out.Operation != nil {
		if err := a.awaitMove(ctx, *out.Operation); err != nil {
			return d, err
		}
	}
	return a.arrived(ctx, d)
}

// mayFollow fails unless the profile of a volume lets it move here without a command.
func (a *Agent) mayFollow(ctx context.Context, d dataset.Dataset) error {
	if err := a.nodes.Refresh(ctx); err != nil {
		return err
	}
	home, command := a.nodes.Name(d.Home), fmt.Sprintf("drover volume move %s %s", d.Volume, a.NodeName)
	if d.Profile.Follow.Mode == dataset.FollowNever {
		return dataset.Errorf(dataset.ErrUnsupported,
			"volume %s lives on node %s and its profile lets it follow nobody (%s moves it here)", d.Volume, home,
			command)
	}
	if a.shares(ctx, d) {
		return nil // nothing is copied
	}
	if away, err := a.nodes.IsAway(ctx, d.Home); err != nil || away {
		return err // the duration cannot be estimated, and control refuses the move and says what to do
	}
	expected, how, err := a.expect(ctx, d)
	if err != nil {
		return err
	}
	if d.Profile.Follow.Allows(expected) {
		return nil
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"volume %s lives on node %s, and to move it here takes about %s (%s), more than its profile lets it "+
			"follow %s (%s moves it here)",
		d.Volume, home, expected.Round(time.Second), how, d.Profile.Follow, command)
}

// assumedRate is the expected rate of a move if none has come here yet: half of what a link of 1 Gbit/s carries.
const assumedRate = 60 << 20

// expect estimates how long a move would take, and returns how it computes that: the amount of data that this
// node lacks if it has a copy, or all of the volume's data, at the rate of the last move that came here. If a
// pool cannot report the amount, the estimate does not delay the move.
func (a *Agent) expect(ctx context.Context, d dataset.Dataset) (time.Duration, string, error) {
	size, err := a.takes(ctx, d)
	if err != nil {
		return 0, "", err
	}
	a.mu.Lock()
	rate, as := a.rate, "as the last one"
	a.mu.Unlock()
	if rate == 0 {
		rate, as = assumedRate, "assumed"
	}
	if lacks, known := a.lacks(ctx, d); known {
		size = min(size, lacks)
	}
	took := time.Duration(float64(size) / float64(rate) * float64(time.Second))
	return took, fmt.Sprintf("%s at %s a second, %s", size.Human(), dataset.Size(rate).Human(), as), nil
}

// heardTries is how often control is asked for the amount of data of a volume. Its home reports it soon after
// control has started.
const heardTries = 10

// takes returns how much data a volume has, or its maximum if its home has not reported it.
func (a *Agent) takes(ctx context.Context, d dataset.Dataset) (dataset.Size, error) {
	for range heardTries {
		v, err := a.Control.Volume(ctx, d.ID.String())
		if err != nil {
			return 0, err
		}
		if v.Status != nil {
			return v.Status.Used, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-a.Clock.After(a.Limits.Retry):
		}
	}
	return d.Size, nil
}

// lackTime bounds the request to a home for how much of a dataset has changed.
const lackTime = 10 * time.Second

// lacks asks the home how much this node lacks of a dataset of which it has a copy.
func (a *Agent) lacks(ctx context.Context, d dataset.Dataset) (bytes dataset.Size, known bool) {
	k, kept := a.Cache.Copy(d.ID)
	if !kept || a.config.PeerHTTP == nil {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(ctx, lackTime)
	defer cancel()
	home, err := a.nodes.Peer(ctx, d.Home)
	if err != nil || home.Address == "" {
		return 0, false
	}
	pool, err := a.pools.Online(ctx, k.Pool)
	if err != nil {
		return 0, false
	}
	have, err := lineage.SnapshotIDs(ctx, pool, d.ID)
	if err != nil || len(have) == 0 {
		return 0, false
	}
	now, err := a.puller.Freshen(ctx, "https://"+home.Address, d.ID, have)
	if err != nil {
		return 0, false
	}
	plan, err := a.puller.Plan(ctx, "https://"+home.Address, d.ID, have, now.ID)
	return dataset.Size(plan.Bytes()), err == nil
}

// awaitMove waits for the end of a move for as long as a request may take.
func (a *Agent) awaitMove(ctx context.Context, op dataset.Operation) error {
	return a.awaitMoveUntil(ctx, op, a.Clock.Steady()+a.Limits.Follow)
}

// awaitMoveUntil is awaitMove until a time of the steady clock.
func (a *Agent) awaitMoveUntil(ctx context.Context, op dataset.Operation, until time.Duration) error {
	for !op.State.Final() {
		left := until - a.Clock.Steady()
		if left <= 0 || ctx.Err() != nil {
			return jobs.Pending("mount of volume "+op.Volume, op.ID, op.Progress)
		}
		next, err := a.Control.Operation(ctx, op.ID.String(), min(left, host.LongPoll))
		switch {
		case err != nil && ctx.Err() != nil:
		case err != nil:
			return fmt.Errorf("mount of volume %s: its move goes on as operation %s: %w", op.Volume,
				op.ID.String()[:8], err)
		default:
			op = next
		}
	}
	return operation.Outcome(op)
}

// arrived returns the record of a dataset that came here.
func (a *Agent) arrived(ctx context.Context, d dataset.Dataset) (dataset.Dataset, error) {
	now, err := a.failover.Locate(ctx, d)
	if err == nil && now.Home != a.NodeID {
		err = dataset.Errorf(dataset.ErrConflict, "volume %s went on to node %s: ask again", d.Volume,
			a.nodes.Name(now.Home))
	}
	return now, err
}
