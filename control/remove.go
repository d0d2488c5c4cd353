package control

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// shownHomes is how many of a node's volumes an error names.
const shownHomes = 5

// RemoveNode lets a node go: its certificate is worth nothing from then on, the copies
// that it kept are forgotten, and so is the node. While datasets have their home there it
// fails with ErrInUse; with force only what its certificate is worth changes then, and the
// node stays on record, removed and cordoned, until they have another home and it is
// removed again; so it does while it may have datasets mounted as a guest, until a person vouches
// that it writes no more. While it keeps what nobody else has it fails so too, and force forgets
// that: the answer and events say what. Again: goes on where it was. ErrInvalid for an unknown node,
// ErrAmbiguous.
func (s *Service) RemoveNode(ctx context.Context, ref string, force bool) (out api.Removed, err error) {
	n := &out.Node
	if !force {
		if err := s.keepsNothing(ctx, ref); err != nil {
			return out, err
		}
	}
	_, err = s.update(ctx, func(t *tx) error {
		if *n, err = t.nodeNamed(ref); err != nil {
			return err
		}
		homes, err := t.homes(n.ID)
		if err != nil {
			return err
		}
		if len(homes) > 0 && !force {
			return homesLeft(*n, homes)
		}
		if !force {
			if err := s.staysNowhere(t, *n); err != nil {
				return err
			}
		}
		return s.banish(t, n)
	})
	s.revoked.lookAgain()
	if err != nil {
		return out, err
	}
	for more := true; more; {
		forgotten, err := s.clearNode(ctx, n.ID)
		out.Forgotten = append(out.Forgotten, forgotten...)
		if err != nil {
			return out, err
		}
		_, err = s.update(ctx, func(t *tx) (err error) {
			more, err = t.dropCleared(*n, force)
			return err
		})
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// dropCleared forgets a node that nothing hangs on any more. More: a volume went on
// elsewhere while it was removed, and left a copy that is to be forgotten first. A home
// becomes a copy in one transaction: so the homes are read before the copies.
func (t *tx) dropCleared(n dataset.Node, force bool) (more bool, err error) {
	homes, err := t.homes(n.ID)
	if err != nil || len(homes) > 0 && force {
		return false, err
	}
	if len(homes) > 0 {
		return false, homesLeft(n, homes) // the last one came while it was removed
	}
	copies, err := t.list(record.NodeCopies(n.ID), "", 1)
	if err != nil || len(copies) > 0 {
		return len(copies) > 0, err
	}
	guests, err := t.stays(n.ID, nil)
	if err != nil {
		return false, err
	}
	if len(guests) == 0 {
		return false, t.dropNode(n.ID)
	}
	vouched, err := t.get(record.FencedKey(n.ID), &fenced{})
	return vouched, err // otherwise it may write to what it has mounted, and says so to nobody
}

// banish makes a node's certificate worth nothing.
func (s *Service) banish(t *tx, n *dataset.Node) error {
	if !n.Removed.IsZero() {
		return nil
	}
	n.Removed, n.Cordoned = s.Clock.Now(), true
	if err := t.put(record.NodeKey(n.ID), *n); err != nil {
		return err
	}
	if err := t.trusts(n.ID); err != nil { // what it said of the store counts no more
		return err
	}
	t.events = append(t.events, api.Event{
		Type:   "node.remove",
		Node:   n.Name,
		Detail: "removed; its certificate is worth nothing any more",
	})
	return s.revoke(t, record.RevokedNodeKey(n.ID), record.Revocation{
		Node: n.ID, Name: n.Name, By: api.PrincipalOf(t.ctx).String(), At: n.Removed,
		Until: n.Removed.Add(pki.MemberLife + time.Hour),
	})
}

// homes names some of the datasets that have their home on a node: one more than an
// error shows.
func (t *tx) homes(node uuid.UUID) (names []string, err error) {
	entries, err := t.list(record.HomePrefix(node), "", shownHomes+1)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		var c record.Claim
		if err := record.Decode(e.Key, e.Value, &c); err != nil {
			return nil, err
		}
		var d dataset.Dataset
		if _, err := t.peek(record.DatasetKey(c.ID), &d); err != nil {
			return nil, err
		}
		name := d.Volume
		if d.State != dataset.StateReady {
			name += " (deleted, " + c.ID.String()[:8] + ")"
		}
		names = append(names, name)
	}
	return names, nil
}

func homesLeft(n dataset.Node, homes []string) error {
	more := ""
	if len(homes) > shownHomes {
		homes, more = homes[:shownHomes], " and others"
	}
	slices.Sort(homes)
	return dataset.Errorf(dataset.ErrInUse, "node %s is the home of %s%s: move them first (drover volume "+
		"move), or say --force if the node must not be let in any more: then it stays on record until they "+
		"have another home",
		n.Name, strings.Join(homes, ", "), more)
}

// clearNode ends what a node that was removed had to do, and forgets what it kept for
// others: it cannot come back. It returns what of that nobody else has.
func (s *Service) clearNode(ctx context.Context, node uuid.UUID) (forgotten []string, err error) {
	work, err := newTx(ctx, s.store).work(node)
	if err != nil {
		return nil, err
	}
	for _, op := range work {
		if _, err := s.update(ctx, func(t *tx) error { return s.abandon(t, op.ID, node) }); err != nil {
			return nil, err
		}
	}
	if err := s.clearCondemned(ctx, node, uuid.Nil); err != nil {
		return nil, err
	}
	if err := s.clearGuest(ctx, node); err != nil {
		return nil, err
	}
	copies, err := listAll[dataset.Copy](newTx(ctx, s.store), record.NodeCopies(node))
	if err != nil {
		return nil, err
	}
	for _, c := range copies {
		var what only
		if _, err := s.update(ctx, func(t *tx) (err error) {
			if what, err = s.onlyOne(t, node, c.Dataset); err != nil {
				return err
			}
			if what.is != "" {
				t.event("volume.forget", what.d, what.is+", is on record no more: it lies in pool "+c.Pool.String())
			}
			return t.dropCopy(node, c.Dataset)
		}); err != nil {
			return forgotten, err
		}
		if what.is != "" {
			forgotten = append(forgotten, what.is)
		}
	}
	return forgotten, nil
}

// clearCondemned forgets what a node that was removed was to destroy, or was to in a pool that
// is gone: nobody will say that it has.
func (s *Service) clearCondemned(ctx context.Context, node, pool uuid.UUID) error {
	entries, err := newTx(ctx, s.store).list(record.HomePrefix(node), "", 0)
	if err != nil {
		return err
	}
	for _, e := range entries {
		var c record.Claim
		if err := record.Decode(e.Key, e.Value, &c); err != nil {
			return err
		}
		gone := false
		for more := true; more; {
			_, err := s.update(ctx, func(t *tx) error {
				more, gone = false, false
				var d dataset.Dataset
				there, err := t.get(record.DatasetKey(c.ID), &d)
				if err != nil || !there || d.Home != node || d.State != dataset.StatePurging || pool != uuid.Nil &&
					d.Pool != pool {
					return err
				}
				if more, err = t.delSnapshots(d); err != nil || more {
					return err
				}
				gone = true
				return t.unhome(d)
			})
			if err != nil {
				return err
			}
		}
		if gone {
			s.seen.forget(c.ID)
			s.counts.forget(c.ID)
		}
	}
	return nil
}

// abandon ends an operation whose node is no more.
func (s *Service) abandon(t *tx, id, node uuid.UUID) error {
	var op dataset.Operation
	ok, err := t.get(record.OperationKey(id), &op)
	if err != nil || !ok || op.State.Final() {
		return err
	}
	op.State, op.Ended = dataset.OpFailed, s.Clock.Now()
	op.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrOffline,
		"node %s was removed while this was to be done there", node))
	return s.end(t, op)
}

// dropNode forgets a node that nothing hangs on any more, and its pools.
func (t *tx) dropNode(id uuid.UUID) error {
	var n dataset.Node
	ok, err := t.get(record.NodeKey(id), &n)
	if err != nil || !ok {
		return err
	}
	for _, pool := range n.Pools {
		if err := t.forgetPool(id, pool); err != nil {
			return err
		}
	}
	for _, key := range []string{record.NodeKey(id), record.FactsKey(id), record.AwayKey(id), record.FencedKey(id),
		record.LeftKey(id)} {
		t.del(key)
	}
	return nil
}
