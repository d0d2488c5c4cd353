package membership

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// Fence records the confirmation of an operator that a node is fenced: it is switched off, or disconnected for good.
// Automatic failover then does not wait for the node, and the node does not count towards a mass loss. The
// confirmation ends when the agent registers again. Idempotent.
//
// It fails with dataset.ErrInvalid if the request lacks the confirmation, with ErrConflict while the node is alive,
// with ErrNotFound for an unknown node, and with ErrUnsupported in the store of a single host.
func (m *Members) Fence(ctx context.Context, node uuid.UUID, f api.Fenced) (n dataset.Node, err error) {
	_, err = m.Ledger.Update(ctx, func(t *record.Tx) error {
		n = dataset.Node{}
		known, err := t.Get(record.NodeKey(node), &n)
		switch {
		case err != nil:
			return err
		case !known:
			return dataset.Errorf(dataset.ErrNotFound, "no such node: %s", node)
		case !m.Ledger.Shared:
			return dataset.Errorf(dataset.ErrUnsupported, "fence of node %s: there is no other node", n.Name)
		case !f.Confirmed:
			return dataset.Errorf(dataset.ErrInvalid,
				"fence of node %s: its volumes may then be opened elsewhere: set confirmed in the request once it is "+
					"off, or cut off for good", n.Name)
		}
		_, there, err := LivingSession(t, node)
		if err != nil {
			return err
		}
		if there {
			return dataset.Errorf(dataset.ErrConflict,
				"fence of node %s: it is alive (stop drover and its containers there first, or switch it off)", n.Name)
		}
		if already, err := IsFencedSinceRecovery(t, node); err != nil || already {
			return err
		}
		by := api.PrincipalOf(t.Context()).String()
		t.Notice.Events = append(t.Notice.Events, api.Event{
			Type:   api.EventNodeFence,
			Node:   n.Name,
			Detail: by + " confirms that it writes no more",
		})
		is := record.Fenced{At: m.Ledger.Clock.Now(), By: by}
		return errors.Join(m.putUnreachable(t, node), t.Put(record.FencedKey(node), is))
	})
	if err == nil {
		err = m.CheckMassLoss(ctx)
	}
	return n, err
}

// Failover returns whether automatic failover is suspended.
func (m *Members) Failover(ctx context.Context) (out api.FailoverState, err error) {
	err = m.Ledger.View(ctx, func(t *record.Tx) error {
		out = api.FailoverState{}
		var h record.FailoverHalt
		if _, err := t.Get(record.FailoverKey, &h); err != nil {
			return err
		}
		out.Halted, err = FailoverSuspended(t)
		out.HaltedSince = h.Since
		return err
	})
	return out, err
}
