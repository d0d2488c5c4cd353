package control

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// Register puts a node and its pools on record. The agent that registers last
// is the one whose reports count. Again: the same. One that has a certificate is called
// what that says. ErrInvalid when it does not say who it is, ErrForbidden for a node that
// was removed, ErrInUse while another machine with its identity is alive.
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
		if ok, err := t.get(nodeKey(n.ID), &old); err != nil {
			return err
		} else if ok {
			n.Cordoned, n.Draining = old.Cordoned, old.Draining
		}
		if was, err := t.get(revokedNodeKey(n.ID), &revocation{}); err != nil {
			return err
		} else if was || !old.Removed.IsZero() {
			return gone(n.ID)
		}
		n.Pools, n.Dropped = nil, nil
		for _, p := range r.Pools {
			if p.ID == uuid.Nil || slices.Contains(n.Pools, p.ID) {
				return dataset.Errorf(dataset.ErrInvalid, "register: pool %q has no UUID, or another's", dataset.Clip(p.Name))
			}
			if err := s.poolIsFree(t, n, p); err != nil {
				return err
			}
			p.Node = n.ID
			n.Pools = append(n.Pools, p.ID)
			if err := record("register of node "+n.Name, "what it says of pool "+dataset.Clip(p.Name), p); err != nil {
				return err
			}
			if err := t.put(poolKey(p.ID), p); err != nil {
				return err
			}
		}
		// A pool that the node had and does not name now stays on record: its
		// datasets are offline, not gone.
		for _, id := range old.Pools {
			if !slices.Contains(n.Pools, id) {
				n.Pools, n.Dropped = append(n.Pools, id), append(n.Dropped, id)
			}
		}
		who := "register of node " + n.Name
		if err := cmp.Or(within(who, len(n.Pools), maxPools, "pools"), record(who, "what it says of itself", n)); err != nil {
			return err
		}
		n.Registered = s.Clock.Now() // so that the record is another one each time: see api.Sync.Index
		return t.put(nodeKey(n.ID), n)
	})
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
	there, err := t.get(poolKey(p.ID), &on)
	if err != nil || !there || on.Node == n.ID {
		return err
	}
	_, alive, err := t.living(on.Node)
	if err != nil || !alive {
		return err
	}
	name, err := t.nodeName(on.Node)
	if err == nil {
		err = dataset.Errorf(dataset.ErrInUse, "register of node %s: pool %s (%s) is node %s's, which is alive (a copy of its disk cannot serve beside it; take the pool out of drover.yaml, or drover node rm %s first)", n.Name, p.Name, p.ID, name, name)
	}
	return err
}

func (t *tx) identify() error {
	var c claim
	ok, err := t.get(clusterKey, &c)
	if err != nil || ok {
		return err
	}
	return t.put(clusterKey, claim{uuid.New()})
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
		err := t.foresee([]string{nodeKey(node), haltedKey})
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
		return dataset.Errorf(dataset.ErrConflict, "node %s: nothing was heard of it since control was started: all is to be told", n.Name)
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
	s.events.publish(warnings...)
	for _, op := range moved {
		s.feed.wake(op)
	}
	return nil
}

// fresh fails with ErrStale unless a report comes from the agent that registered
// last for its node.
func (t *tx) fresh(node, incarnation uuid.UUID) (n dataset.Node, err error) {
	ok, err := t.get(nodeKey(node), &n)
	switch {
	case err != nil:
		return n, err
	case !ok:
		return n, dataset.Errorf(dataset.ErrStale, "node %s is not registered", node)
	case !n.Removed.IsZero():
		return n, gone(node)
	case n.Incarnation != incarnation:
		return n, dataset.Errorf(dataset.ErrStale, "node %s: report of incarnation %s, but %s registered since", n.Name, incarnation, n.Incarnation)
	}
	return n, nil
}

// Sync waits for changes of a node's datasets and operations after rev, for at
// most wait; rev 0, or one from before this service started: everything at once.
// ErrUnavailable when the service stops meanwhile.
func (s *Service) Sync(ctx context.Context, node uuid.UUID, rev uint64, wait time.Duration) (api.Sync, error) {
	timeout := s.Clock.After(wait)
	for last := false; ; {
		rung, leave := s.feed.hear(node)
		n := s.feed.since(node, rev)
		if n.any || last {
			leave()
			return s.syncNow(ctx, node, n)
		}
		rang, err := s.await(ctx, rung, timeout)
		leave()
		if err != nil {
			return api.Sync{}, err
		}
		last = !rang
	}
}

// await reports whether a bell rang before the timeout. ErrUnavailable when the
// service stops.
func (s *Service) await(ctx context.Context, rung <-chan struct{}, timeout <-chan time.Time) (rang bool, err error) {
	select {
	case <-rung:
		return true, nil
	case <-timeout:
		return false, nil
	case <-s.quit:
		return false, stopping()
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func stopping() error { return dataset.Errorf(dataset.ErrUnavailable, "control is stopping") }

func (s *Service) syncNow(ctx context.Context, node uuid.UUID, n news) (out api.Sync, err error) {
	if n.full && s.Shared {
		return s.syncTrusted(ctx, node, n)
	}
	return s.syncRead(ctx, node, n)
}

// syncTrusted reads everything with what tells an agent whether it is to be believed. The
// store may be put back, or recovered, at any moment: so the clock is read after it, and
// what a recovery says is the same before and after. ErrUnavailable when it is not.
func (s *Service) syncTrusted(ctx context.Context, node uuid.UUID, n news) (out api.Sync, err error) {
	before, _, err := s.trust(ctx, node)
	if err != nil {
		return out, err
	}
	if out, err = s.syncRead(ctx, node, n); err != nil {
		return out, err
	}
	if out.Clock, err = s.clock(ctx); err != nil {
		return out, err
	}
	after, halted, err := s.trust(ctx, node)
	if err == nil && after != before {
		err = dataset.Errorf(dataset.ErrUnavailable, "sync of node %s: the store was recovered meanwhile (ask again)", node)
	}
	if after != (api.Recovering{}) {
		out.Recovery = &after
	}
	out.Halted = halted
	return out, err
}

// trust reads what a node is to know of the last recovery, and why nothing is decided.
func (s *Service) trust(ctx context.Context, node uuid.UUID) (last api.Recovering, halted string, err error) {
	t := newTx(ctx, s.store)
	if err := t.foresee([]string{recoveryKey, haltedKey}); err != nil {
		return last, "", err
	}
	if r, err := t.recovering(node); err != nil {
		return last, "", err
	} else if r != nil {
		last = *r
	}
	var h halt
	there, err := t.get(haltedKey, &h)
	if there {
		halted = h.err().Error()
	}
	return last, halted, err
}

func (s *Service) syncRead(ctx context.Context, node uuid.UUID, n news) (out api.Sync, err error) {
	out = api.Sync{Rev: n.rev, Full: n.full}
	t := newTx(ctx, s.store)
	ids := n.datasets
	if s.Shared {
		out.Clock, _ = s.highest.get()
	}
	if n.full {
		claims, err := listAll[claim](t, homePrefix(node))
		if err != nil {
			return out, err
		}
		for _, c := range claims {
			ids = append(ids, c.ID)
		}
		copies, err := listAll[dataset.Copy](t, nodeCopies(node))
		if err != nil {
			return out, err
		}
		for _, c := range copies {
			ids = append(ids, c.Dataset)
		}
		if ids, err = t.stays(node, ids); err != nil {
			return out, err
		}
	}
	keys := []string{clusterKey, nodeKey(node)}
	for _, id := range ids {
		keys = append(keys, datasetKey(id))
	}
	if err := t.foresee(keys); err != nil {
		return out, err
	}
	var cluster claim
	if _, err := t.get(clusterKey, &cluster); err != nil {
		return out, err
	}
	out.Cluster = cluster.ID
	if _, err := t.get(nodeKey(node), &dataset.Node{}); err != nil {
		return out, err
	}
	out.Index = t.index(nodeKey(node))
	for _, id := range ids {
		if err := s.syncOne(t, node, id, &out); err != nil {
			return out, err
		}
	}
	out.Operations, err = t.work(node)
	return out, err
}

// syncOne adds what a node is to know of a dataset that it has, had, or keeps a copy of.
func (s *Service) syncOne(t *tx, node, id uuid.UUID, out *api.Sync) error {
	var d dataset.Dataset
	ok, err := t.get(datasetKey(id), &d)
	if err != nil {
		return err
	}
	if ok && d.Home == node {
		is := api.Indexed{Dataset: d, Index: t.index(datasetKey(id))}
		if d.Move != uuid.Nil {
			lease, err := t.lease(d)
			if err != nil {
				return err
			}
			is.Lease = &lease
		}
		out.Datasets = append(out.Datasets, is)
		return nil
	}
	_, stays := d.Stay(node)
	switch {
	case !ok:
		s.seen.forget(id)
	case stays:
		out.Guests = append(out.Guests, api.Indexed{Dataset: d, Index: t.index(datasetKey(id))})
	default:
		s.seen.forgetFrom(node, id)
	}
	k, kept, err := t.kept(node, id)
	if kept {
		out.Copies = append(out.Copies, k)
		return nil
	}
	out.Removed = append(out.Removed, id)
	return err
}

// work returns the operations of a node that are not final.
func (t *tx) work(node uuid.UUID) (open []dataset.Operation, err error) {
	claims, err := listAll[claim](t, workPrefix(node))
	if err != nil {
		return nil, err
	}
	keys := make([]string, len(claims))
	for i, c := range claims {
		keys[i] = operationKey(c.ID)
	}
	if err := t.foresee(keys); err != nil {
		return nil, err
	}
	for _, c := range claims {
		var op dataset.Operation
		if ok, err := t.get(operationKey(c.ID), &op); err != nil {
			return nil, err
		} else if ok && !op.State.Final() {
			open = append(open, op)
		}
	}
	return open, nil
}
