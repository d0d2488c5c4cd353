package control

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Register puts a node and its pools on record. The agent that registers last
// is the one whose reports count.
func (s *Service) Register(ctx context.Context, r api.Registration) error {
	n := r.Node
	if n.ID == uuid.Nil || n.Incarnation == uuid.Nil {
		return dataset.Errorf(dataset.ErrInvalid, "register: node or incarnation is missing")
	}
	_, err := s.update(ctx, func(t *tx) error {
		if err := t.identify(); err != nil {
			return err
		}
		var old dataset.Node
		if ok, err := t.get(nodeKey(n.ID), &old); err != nil {
			return err
		} else if ok {
			n.Cordoned = old.Cordoned
		}
		n.Pools = nil
		for _, p := range r.Pools {
			p.Node = n.ID
			n.Pools = append(n.Pools, p.ID)
			if err := t.put(poolKey(p.ID), p); err != nil {
				return err
			}
		}
		// A pool that the node had and does not name now stays on record: its
		// datasets are offline, not gone.
		for _, id := range old.Pools {
			if !contains(n.Pools, id) {
				n.Pools = append(n.Pools, id)
			}
		}
		return t.put(nodeKey(n.ID), n)
	})
	return err
}

// clusterKey holds the identity of the store: made once, with the first node.
const clusterKey = "cluster/id"

func (t *tx) identify() error {
	var c claim
	ok, err := t.get(clusterKey, &c)
	if err != nil || ok {
		return err
	}
	return t.put(clusterKey, claim{uuid.New()})
}

func contains(ids []uuid.UUID, id uuid.UUID) bool {
	for _, x := range ids {
		if x == id {
			return true
		}
	}
	return false
}

// NodeList lists all nodes.
func (s *Service) NodeList(ctx context.Context) ([]dataset.Node, error) {
	return listAll[dataset.Node](newTx(ctx, s.store), "nodes/")
}

// Heartbeat keeps what an agent sees; nothing is stored.
func (s *Service) Heartbeat(ctx context.Context, node uuid.UUID, h api.Heartbeat) error {
	if err := s.view(ctx, func(t *tx) error { return t.fresh(node, h.Incarnation) }); err != nil {
		return err
	}
	changed := false
	s.mu.Lock()
	for _, p := range h.Pools {
		s.warn(s.pools[p.ID], p)
		s.pools[p.ID] = p
	}
	for _, d := range h.Datasets {
		s.datasets[d.ID] = d
	}
	for _, op := range h.Operations {
		changed = changed || s.progress[op.ID] != op.Progress
		s.progress[op.ID] = op.Progress
	}
	s.mu.Unlock()
	if changed {
		s.feed.wake()
	}
	return nil
}

// fullAt is the share of a pool, in percent, from which on people are warned.
const fullAt = 80

func usedPercent(p dataset.PoolStatus) int64 {
	if p.Size <= 0 {
		return 0
	}
	return int64((p.Size - p.Free) * 100 / p.Size)
}

// warn publishes an event when a pool fills up, goes away or comes back.
func (s *Service) warn(was, is dataset.PoolStatus) {
	ev := api.Event{Time: s.Clock.Now(), Detail: is.Reason}
	switch {
	case was.Online && !is.Online:
		ev.Type = "pool.offline"
	case !was.Online && is.Online && was.ID != uuid.Nil:
		ev.Type = "pool.online"
	case usedPercent(was) < fullAt && usedPercent(is) >= fullAt:
		ev.Type, ev.Detail = "pool.full", is.Free.Human()+" free of "+is.Size.Human()
	default:
		return
	}
	ev.Labels = map[string]string{"pool": is.ID.String()}
	s.events.publish(ev)
}

// Sync waits for changes of a node's datasets and operations after rev, for at
// most wait; rev 0, or one from before this service started: everything at once.
func (s *Service) Sync(ctx context.Context, node uuid.UUID, rev uint64, wait time.Duration) (api.Sync, error) {
	timeout := s.Clock.After(wait)
	for {
		next, ids, any, full, changed := s.feed.since(node, rev)
		if any {
			return s.syncNow(ctx, node, next, ids, full)
		}
		select {
		case <-changed:
		case <-timeout:
			return s.syncNow(ctx, node, next, nil, false)
		case <-s.done:
			return api.Sync{}, dataset.Errorf(dataset.ErrUnavailable, "control is stopping")
		case <-ctx.Done():
			return api.Sync{}, ctx.Err()
		}
	}
}

func (s *Service) syncNow(ctx context.Context, node uuid.UUID, rev uint64, ids []uuid.UUID, full bool) (api.Sync, error) {
	out := api.Sync{Rev: rev, Full: full}
	t := newTx(ctx, s.store)
	var cluster claim
	if _, err := t.get(clusterKey, &cluster); err != nil {
		return out, err
	}
	out.Cluster = cluster.ID
	if full {
		claims, err := listAll[claim](t, homePrefix(node))
		if err != nil {
			return out, err
		}
		for _, c := range claims {
			ids = append(ids, c.ID)
		}
	}
	for _, id := range ids {
		var d dataset.Dataset
		ok, err := t.get(datasetKey(id), &d)
		switch {
		case err != nil:
			return out, err
		case !ok || d.Home != node:
			out.Removed = append(out.Removed, id)
			s.mu.Lock()
			delete(s.datasets, id)
			s.mu.Unlock()
		default:
			out.Datasets = append(out.Datasets, api.Indexed{Dataset: d, Index: t.read[datasetKey(id)].Index})
		}
	}
	work, err := listAll[claim](t, workPrefix(node))
	if err != nil {
		return out, err
	}
	for _, c := range work {
		var op dataset.Operation
		if ok, err := t.get(operationKey(c.ID), &op); err != nil {
			return out, err
		} else if ok && !op.State.Final() {
			out.Operations = append(out.Operations, op)
		}
	}
	return out, nil
}
