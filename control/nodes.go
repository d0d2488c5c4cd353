package control

import (
	"cmp"
	"context"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// Register puts a node and its pools on record. The agent that registers last
// is the one whose reports count. Again: the same. One that has a certificate is called
// what that says. ErrInvalid when it does not say who it is, ErrForbidden for a node that
// was removed, ErrInUse while another machine with its identity is alive, ErrConflict for a pool
// that is gone while anything is on record there.
func (s *Service) Register(ctx context.Context, r api.Registration) error {
	n := r.Node
	if n.ID == uuid.Nil || n.Incarnation == uuid.Nil {
		return dataset.Errorf(dataset.ErrInvalid, "register: node or incarnation is missing")
	}
	if p := api.PrincipalOf(ctx); p.Kind == pki.Node {
		n.Name = p.Name
	}
	before := ""
	err := s.withSession(ctx, func(t *tx, session string) (err error) {
		if err := t.identify(); err != nil {
			return err
		}
		if before, err = s.enter(t, r, session); err != nil {
			return err
		}
		var old dataset.Node
		if ok, err := t.get(record.NodeKey(n.ID), &old); err != nil {
			return err
		} else if ok {
			n.Cordoned, n.Draining = old.Cordoned, old.Draining
		}
		if n.Incarnation == old.Incarnation && n.Word < old.Word { // it may name pools that are gone
			return dataset.Errorf(dataset.ErrStale,
				"register of node %s: a later one of its agent was there before", n.Name)
		}
		if was, err := t.get(record.RevokedNodeKey(n.ID), &record.Revocation{}); err != nil {
			return err
		} else if was || !old.Removed.IsZero() {
			return gone(n.ID)
		}
		n.Pools, n.Dropped = nil, nil
		for _, p := range r.Pools {
			if p.ID == uuid.Nil || slices.Contains(n.Pools, p.ID) {
				return dataset.Errorf(dataset.ErrInvalid, "register: pool %q has no UUID, or another's",
					dataset.Clip(p.Name))
			}
			if err := s.poolIsFree(t, n, p); err != nil {
				return err
			}
			p.Node = n.ID
			n.Pools = append(n.Pools, p.ID)
			if err := checkRecord("register of node "+n.Name, "what it says of pool "+dataset.Clip(p.Name),
				p); err != nil {
				return err
			}
			if err := t.put(record.PoolKey(p.ID), p); err != nil {
				return err
			}
		}
		if err := t.keepPools(&n, old.Pools, r.Gone); err != nil {
			return err
		}
		who := "register of node " + n.Name
		if err := cmp.Or(within(who, len(n.Pools), maxPools, "pools"),
			checkRecord(who, "what it says of itself", n)); err != nil {
			return err
		}
		n.Registered = s.Clock.Now() // so that the record is another one each time: see api.Sync.Index
		return t.put(record.NodeKey(n.ID), n)
	})
	if err == nil {
		err = s.clearGone(ctx, r)
	}
	if err != nil || before == "" {
		return err
	}
	return unread(ctx, s.store.End(ctx, before))
}

// poolIsFree fails with ErrInUse for a pool that another node has on record, as long as
// that one is alive: a disk that moved has left its host, and one that was copied is the
// same pool twice. A pool of a node that is away is taken over by who vouches for that with
// drover pool adopt, on the host: see Rebuild for what that does to its volumes.
func (s *Service) poolIsFree(t *tx, n dataset.Node, p dataset.Pool) error {
	if !s.Shared {
		return nil
	}
	var on dataset.Pool
	there, err := t.get(record.PoolKey(p.ID), &on)
	if err != nil || !there || on.Node == n.ID {
		return err
	}
	_, alive, err := t.living(on.Node)
	if err != nil || !alive {
		return err
	}
	name, err := t.nodeName(on.Node)
	if err == nil {
		err = dataset.Errorf(dataset.ErrInUse,
			"register of node %s: pool %s (%s) is node %s's, which is alive (a copy of its disk cannot "+
				"serve beside it; take the pool out of drover.yaml, or drover node rm %s first)", n.Name, p.Name,
			p.ID, name, name)
	}
	return err
}

func (t *tx) identify() error {
	var c record.Claim
	ok, err := t.get(record.ClusterKey, &c)
	if err != nil || ok {
		return err
	}
	return t.put(record.ClusterKey, record.Claim{ID: uuid.New()})
}

// Heartbeat keeps what an agent sees; nothing is stored, but that it leaves. ErrStale for an agent
// that is not the node's newest, ErrConflict for what changed since something that this
// service was not told of, ErrInvalid for one that says too much.
func (s *Service) Heartbeat(ctx context.Context, node uuid.UUID, h api.Heartbeat) error {
	n, ok := s.recalled.node(node)
	t := newTx(ctx, s.store)
	look := !ok || n.Incarnation != h.Incarnation || !n.Removed.IsZero()
	if look {
		began := s.Clock.Steady()
		err := t.foresee([]string{record.NodeKey(node), record.HaltedKey})
		if err == nil {
			n, err = t.fresh(node, h.Incarnation)
		}
		if err != nil {
			return err
		}
		s.recalled.note(t, node, began)
	}
	if err := checkHeartbeat(n, h); err != nil {
		return err
	}
	if h.Leaving {
		return s.noteLeft(ctx, n)
	}
	if h.Whole && !s.seen.heard(node) {
		return dataset.Errorf(dataset.ErrConflict,
			"node %s: nothing was heard of it since control was started: all is to be told", n.Name)
	}
	if err := s.noteTrust(t, node, h.Distrust, look); err != nil {
		return err
	}
	warnings, moved, err := s.seen.take(n, h, s.Clock.Steady())
	if err != nil {
		return err
	}
	for i := range warnings {
		warnings[i].Time = s.Clock.Now()
	}
	s.events.Publish(warnings...)
	for _, op := range moved {
		s.feed.Wake(op)
	}
	return nil
}

// fresh fails with ErrStale unless a report comes from the agent that registered
// last for its node.
func (t *tx) fresh(node, incarnation uuid.UUID) (n dataset.Node, err error) {
	ok, err := t.get(record.NodeKey(node), &n)
	switch {
	case err != nil:
		return n, err
	case !ok:
		return n, dataset.Errorf(dataset.ErrStale, "node %s is not registered", node)
	case !n.Removed.IsZero():
		return n, gone(node)
	case n.Incarnation != incarnation:
		return n, dataset.Errorf(dataset.ErrStale, "node %s: report of incarnation %s, but %s registered since",
			n.Name, incarnation, n.Incarnation)
	}
	return n, nil
}
