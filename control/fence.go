package control

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// Fence records the confirmation of a person that a node is fenced: it is switched off, or disconnected for good.
// Automatic failover then does not wait, and the node does not count for mass loss. The confirmation ends when
// the agent registers again. Idempotent. dataset.ErrInvalid without the confirmation, ErrConflict while the node
// is alive, ErrNotFound, ErrUnsupported if there are no other hosts.
func (s *Service) Fence(ctx context.Context, node uuid.UUID, f api.Fenced) (n dataset.Node, err error) {
	_, err = s.ledger.Update(ctx, func(t *record.Tx) error {
		n = dataset.Node{}
		known, err := t.Get(record.NodeKey(node), &n)
		switch {
		case err != nil:
			return err
		case !known:
			return dataset.Errorf(dataset.ErrNotFound, "node %s is not on record", node)
		case !s.Shared:
			return dataset.Errorf(dataset.ErrUnsupported, "fence of node %s: there is no other node", n.Name)
		case !f.Confirmed:
			return dataset.Errorf(dataset.ErrInvalid,
				"fence of node %s: confirm that it is off, or cut off for good: its volumes may be opened "+
					"elsewhere then (--confirmed)", n.Name)
		}
		_, there, err := livingSession(t, node)
		if err != nil {
			return err
		}
		if there {
			return dataset.Errorf(dataset.ErrConflict,
				"fence of node %s: it is alive (stop drover and its containers there, or switch it off, first)", n.Name)
		}
		if already, err := t.Get(record.FencedKey(node), &record.Fenced{}); err != nil || already {
			return err
		}
		by := api.PrincipalOf(t.Context()).String()
		t.Notice.Events = append(t.Notice.Events, api.Event{
			Type:   "node.fence",
			Node:   n.Name,
			Detail: by + " vouches that it writes no more",
		})
		return errors.Join(s.goesAway(t, node), t.Put(record.FencedKey(node), record.Fenced{At: s.Clock.Now(), By: by}))
	})
	if err == nil {
		err = s.lookForMassLoss(ctx)
	}
	return n, err
}

// Failover says whether automatic failover is suspended.
func (s *Service) Failover(ctx context.Context) (out api.FailoverState, err error) {
	err = s.ledger.View(ctx, func(t *record.Tx) error {
		out = api.FailoverState{}
		var h halted
		if _, err := t.Get(record.FailoverKey, &h); err != nil {
			return err
		}
		out.Halted, err = failoverSuspended(t)
		out.Since = h.Since
		return err
	})
	return out, err
}
