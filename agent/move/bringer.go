package move

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Bring moves a volume whose home is another node to this node and waits for the move, if the profile allows a move
// without a command of the operator. Several mounts at the same time wait for one move. It returns the record with this
// node as the home. If the volume has failover auto and its home is lost, the volume continues from a copy instead: see
// TakeOver.
//
// If the profile does not allow the move, Bring fails with ErrUnsupported and names the command. If the move takes
// longer than the request may, it fails with ErrPending and the progress. Otherwise it returns the error of the move,
// such as ErrInUse with the node and the mount IDs that use the volume.
func (m *Moves) Bring(ctx context.Context, d dataset.Dataset) (dataset.Dataset, error) {
	if d.Profile.Failover.Auto {
		now, err := m.TakeOver(ctx, d)
		if err != nil || now.Home == m.NodeID {
			return now, err
		}
		d = now
	}
	if d.Move == uuid.Nil { // a move that has begun is joined, also one of another request
		if err := m.checkMayBring(ctx, d); err != nil {
			return d, err
		}
	}
	out, err := m.Control.Submit(ctx, api.Request{
		ID:     uuid.New(),
		Kind:   dataset.OpMove,
		Volume: d.ID.String(),
		Node:   m.NodeID.String(),
	})
	if err != nil {
		return d, err
	}
	if out.Operation != nil {
		if err := m.AwaitMove(ctx, *out.Operation, m.Clock.Steady()+m.Timing.MoveWait); err != nil {
			return d, err
		}
	}
	now, err := m.Locate(ctx, d)
	if err == nil && now.Home != m.NodeID {
		err = dataset.Errorf(dataset.ErrConflict, "volume %s moved on to node %s: try again", d.Volume,
			m.Leases.Nodes.Name(now.Home))
	}
	return now, err
}

// checkMayBring fails unless the profile of a volume lets it move here without a command.
func (m *Moves) checkMayBring(ctx context.Context, d dataset.Dataset) error {
	if err := m.Leases.Nodes.Refresh(ctx); err != nil {
		return err
	}
	home, command := m.Leases.Nodes.Name(d.Home), fmt.Sprintf("drover volume move %s %s", d.Volume, m.NodeName)
	if d.Profile.Follow.Mode == dataset.FollowNever {
		return dataset.Errorf(dataset.ErrUnsupported,
			"volume %s is on node %s and its profile does not allow it to follow a mount (%s moves it "+
				"here)", d.Volume, home,
			command)
	}
	if m.isOnShare(ctx, d) {
		return nil // nothing is copied
	}
	if away, err := m.Leases.Nodes.IsUnreachable(ctx, d.Home); err != nil || away {
		return err // no estimate is needed: control refuses the move, and its error says what to do
	}
	expected, how, err := m.Estimate(ctx, d)
	if err != nil {
		return err
	}
	if d.Profile.Follow.Allows(expected) {
		return nil
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"volume %s is on node %s, and moving it here takes about %s (%s), more than follow: %s of its profile "+
			"allows (%s moves it here)",
		d.Volume, home, expected.Round(time.Second), how, d.Profile.Follow, command)
}

// assumedRate is the expected rate of a move, in bytes a second, if no move has come to this node yet: half of the rate
// of a link of 1 Gbit/s.
const assumedRate = 60 << 20

// Estimate estimates how long a move would take, and describes the estimate: an amount of data at the rate of the last
// move that came here. The amount is the data that this node lacks if it has a copy, and all data of the volume
// otherwise. If a pool cannot report the amount, the amount counts as 0, so the estimate does not prevent the move.
func (m *Moves) Estimate(ctx context.Context, d dataset.Dataset) (time.Duration, string, error) {
	size, err := m.dataSize(ctx, d)
	if err != nil {
		return 0, "", err
	}
	rate, as := m.rate.Load(), "as the last one"
	if rate == 0 {
		rate, as = assumedRate, "assumed"
	}
	if lacks, known := m.missingBytes(ctx, d); known {
		size = min(size, lacks)
	}
	took := time.Duration(float64(size) / float64(rate) * float64(time.Second))
	return took, fmt.Sprintf("%s at %s a second, %s", size.Human(), dataset.Size(rate).Human(), as), nil
}

// sizeTries is how often control is asked for the amount of data of a volume. Its home reports it soon after
// control has started.
const sizeTries = 10

// dataSize returns how much data a volume has. If its home has not reported that, it returns the volume's maximum size.
func (m *Moves) dataSize(ctx context.Context, d dataset.Dataset) (dataset.Size, error) {
	for range sizeTries {
		v, err := m.Control.Volume(ctx, d.ID.String())
		if err != nil {
			return 0, err
		}
		if v.Status != nil && v.Status.InPool != nil {
			return *v.Status.InPool, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-m.Clock.After(m.Timing.Retry):
		}
	}
	return d.Size, nil
}

// missingBytesTime bounds the request to a home for how much of a dataset has changed.
const missingBytesTime = 10 * time.Second

// missingBytes asks the home how many bytes of a dataset the copy on this node lacks.
func (m *Moves) missingBytes(ctx context.Context, d dataset.Dataset) (bytes dataset.Size, known bool) {
	k, kept := m.Cache.Copy(d.ID)
	if !kept || m.Leases.Peers == nil {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(ctx, missingBytesTime)
	defer cancel()
	home, err := m.Leases.Nodes.Peer(ctx, d.Home)
	if err != nil || home.Address == "" {
		return 0, false
	}
	pool, err := m.Pools.Online(ctx, k.Pool)
	if err != nil {
		return 0, false
	}
	have, err := host.SnapshotIDs(ctx, pool, d.ID)
	if err != nil || len(have) == 0 {
		return 0, false
	}
	now, err := m.TransferClient.RequestSnapshot(ctx, "https://"+home.Address, d.ID, have)
	if err != nil {
		return 0, false
	}
	plan, err := m.TransferClient.Plan(ctx, "https://"+home.Address, d.ID, have, now.ID, nil)
	return dataset.Size(plan.Bytes()), err == nil
}

// isOnShare reports whether a volume is on a share on which this node has a pool. If control does not answer, it
// returns false.
func (m *Moves) isOnShare(ctx context.Context, d dataset.Dataset) bool {
	list, err := m.Control.Pools(ctx)
	if err != nil {
		return false
	}
	i := slices.IndexFunc(list, func(p api.Pool) bool { return p.ID == d.Pool })
	return i >= 0 && list[i].Share != uuid.Nil && slices.ContainsFunc(list, func(p api.Pool) bool {
		return p.Node == m.NodeID && p.Share == list[i].Share
	})
}
