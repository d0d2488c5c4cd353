package agent

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/promise"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// takeOver has a volume with failover auto continue from a copy when its home is lost, here or on the node with
// the newest copy, and waits for that as long as a request may take. It returns the present record: if the home
// answers, there is nothing to do.
//
// It fails with ErrPending and names the operation that is running, with ErrInUse and names the node that has the
// volume open although control cannot reach it, and with ErrOffline and says why no node takes over, and what the
// user can do.
func (a *Agent) takeOver(ctx context.Context, d dataset.Dataset) (dataset.Dataset, error) {
	until := a.Clock.Steady() + a.Limits.Follow
	for {
		op, lost, err := a.failover(ctx, d)
		if err == nil && lost {
			err = a.awaitMoveUntil(ctx, op, until)
		}
		if err == nil && !lost {
			err = a.answers(ctx, d)
		}
		// The home may be reachable again, or the volume may continue from another copy.
		again := errors.Is(err, dataset.ErrPending) && !lost || errors.Is(err, dataset.ErrConflict) && lost
		if err != nil && !again {
			return d, err
		}
		if err == nil {
			now, err := a.whereNow(ctx, d)
			if err != nil || !lost || now.Home == a.NodeID {
				return now, err
			}
			d = now // its home is another node now, which is examined next
			continue
		}
		if a.Clock.Steady() >= until {
			return d, dataset.Errorf(dataset.ErrOffline, "mount of volume %s: %w (ask again)", d.Volume, err)
		}
		select {
		case <-ctx.Done():
			return d, ctx.Err()
		case <-a.Clock.After(a.Limits.Retry):
		}
	}
}

// failover asks control for a copy to take over. lost reports whether the home is lost. The returned operation
// then runs already.
func (a *Agent) failover(ctx context.Context, d dataset.Dataset) (op dataset.Operation, lost bool, err error) {
	out, err := a.Control.Submit(ctx, api.Request{
		ID:       uuid.New(),
		Kind:     dataset.OpMove,
		Volume:   d.ID.String(),
		Node:     a.NodeID.String(),
		Failover: true,
	})
	if err != nil || out.Operation == nil {
		return op, false, err
	}
	op = *out.Operation
	without := "; nothing is lost, as it lies on a share"
	if !op.Share {
		without = "; what was written since " + op.Loss.Taken.UTC().Format(time.RFC3339) + " is not in the copy"
	}
	a.LogOf(d).WithField("op", op.ID).Warn("volume goes on without its home: " + op.Loss.Why + without)
	return op, true, nil
}

// answerTime is how long the agent of a home has to answer.
const answerTime = 3 * time.Second

// answers fails with ErrPending if a node that control counts as alive does not answer: it may be lost, and
// control may not know it yet. A move from there would wait for it as well.
func (a *Agent) answers(ctx context.Context, d dataset.Dataset) error {
	if a.config.PeerHTTP == nil {
		return nil
	}
	now, err := a.whereNow(ctx, d)
	if err != nil || now.Home == a.NodeID {
		return err
	}
	home, err := a.nodes.Peer(ctx, now.Home)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	if _, err := promise.Ask(ctx, a.config.PeerHTTP, home.Address, home.ID,
		promise.Request{Incarnation: a.Incarnation}); errors.Is(err, dataset.ErrOffline) {
		return dataset.Errorf(dataset.ErrPending,
			"node %s, which has it, does not answer, and control takes it for alive", home.Name)
	}
	return nil
}

// checkFailover reports whether volumes fail over by themselves, if there are other hosts.
func (a *Agent) checkFailover(ctx context.Context, r *diagnosis) {
	if a.config.PeerHTTP == nil {
		return
	}
	st, err := a.Control.Failover(ctx)
	switch {
	case err != nil: // an unreachable control has a line already
	case st.Halted != "":
		r.Add(findings.Error, "failover", "drover node ls", "no volume fails over, since %s: %s",
			st.Since.UTC().Format(time.RFC3339), st.Halted)
	}
}

// whereNow returns control's record of a dataset.
func (a *Agent) whereNow(ctx context.Context, d dataset.Dataset) (dataset.Dataset, error) {
	if now, here := a.Cache.Dataset(d.ID); here {
		return now, nil
	}
	now, err := a.datasets.Fetch(ctx, d.ID)
	if errors.Is(err, dataset.ErrNotFound) {
		err = dataset.Errorf(dataset.ErrNotFound, "volume %s was deleted", d.Volume)
	}
	return now, err
}
