package control

import (
	"context"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// candidate is a pool that a dataset could lie on, with what is known of it.
type candidate struct {
	dataset.Pool
	status *dataset.PoolStatus
}

// misfit says why a profile cannot be kept on a pool; "" when it can. Pure.
func misfit(c candidate, p dataset.Profile) string {
	can := c.Capabilities
	switch {
	case p.Pool != "" && p.Pool != c.Name:
		return "it is not pool " + p.Pool
	case p.Backend != "" && p.Backend != c.Backend:
		return "its backend is " + c.Backend + ", not " + p.Backend
	case p.Size != 0 && !can.EnforcesSize:
		return "it cannot enforce a size"
	case (p.Snapshots.Required || p.Snapshots.Schedule != "") && !can.InstantSnapshot:
		return "it cannot take snapshots without copying"
	case p.Quiesce == dataset.QuiesceFreeze && !can.OwnFilesystem:
		return "it cannot freeze one volume alone"
	case p.Filesystem.Type != "" && !slices.Contains(can.Filesystems, p.Filesystem.Type):
		return "it has no filesystem " + p.Filesystem.Type + " inside volumes"
	case len(p.Filesystem.Mount) > 0 && !can.OwnFilesystem:
		return "it has no mount options for one volume alone"
	case c.status != nil && !c.status.Online:
		return "it is offline: " + c.status.Reason
	}
	return ""
}

// choose picks the first candidate that fits; otherwise the error gives each
// one's reason. Pure: what is a profile for, and on whose behalf, is in what.
func choose(cands []candidate, p dataset.Profile, what string) (candidate, error) {
	var why []string
	onlyOffline := true
	for _, c := range cands {
		reason := misfit(c, p)
		if reason == "" {
			return c, nil
		}
		onlyOffline = onlyOffline && strings.HasPrefix(reason, "it is offline")
		why = append(why, "pool "+c.Name+": "+reason)
	}
	if len(why) == 0 {
		return candidate{}, dataset.Errorf(dataset.ErrOffline, "%s: this host has no pool (drover pool create makes one)", what)
	}
	kind := dataset.ErrUnsupported
	if onlyOffline {
		kind = dataset.ErrOffline
	}
	return candidate{}, dataset.Errorf(kind, "%s: no pool can keep profile %s: %s", what, p.Name, strings.Join(why, "; "))
}

// candidates returns the pools of a node in the order in which it lists them;
// of all nodes for a nil one.
func (s *Service) candidates(t *tx, node uuid.UUID) ([]candidate, error) {
	nodes := []uuid.UUID{node}
	if node == uuid.Nil {
		list, err := listAll[dataset.Node](t, "nodes/")
		if err != nil {
			return nil, err
		}
		nodes = nodes[:0]
		for _, n := range list {
			nodes = append(nodes, n.ID)
		}
	}
	var cands []candidate
	for _, id := range nodes {
		var n dataset.Node
		if ok, err := t.get(nodeKey(id), &n); err != nil {
			return nil, err
		} else if !ok || n.Cordoned {
			continue
		}
		for _, pid := range n.Pools {
			var p dataset.Pool
			if ok, err := t.get(poolKey(pid), &p); err != nil {
				return nil, err
			} else if ok {
				cands = append(cands, candidate{p, s.poolStatus(pid)})
			}
		}
	}
	return cands, nil
}

func (s *Service) place(t *tx, node uuid.UUID, p dataset.Profile, what string) (candidate, error) {
	cands, err := s.candidates(t, node)
	if err != nil {
		return candidate{}, err
	}
	if p.Pool != "" && !slices.ContainsFunc(cands, func(c candidate) bool { return c.Name == p.Pool }) {
		var names []string
		for _, c := range cands {
			names = append(names, c.Name)
		}
		return candidate{}, dataset.Errorf(dataset.ErrInvalid, "unknown pool %q (have: %s)", p.Pool, dataset.Have(names))
	}
	return choose(cands, p, what)
}

// fits checks that a dataset which lies on a pool can have a profile.
func (s *Service) fits(t *tx, pool uuid.UUID, p dataset.Profile, what string) error {
	var rec dataset.Pool
	ok, err := t.get(poolKey(pool), &rec)
	if err != nil {
		return err
	}
	if !ok {
		return dataset.Errorf(dataset.ErrOffline, "%s: pool %s is not known", what, pool)
	}
	_, err = choose([]candidate{{rec, s.poolStatus(pool)}}, p, what)
	return err
}

func (s *Service) poolStatus(id uuid.UUID) *dataset.PoolStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.pools[id]; ok {
		return &st
	}
	return nil
}

// Pools lists all pools of all nodes.
func (s *Service) Pools(ctx context.Context) ([]api.Pool, error) {
	t := newTx(ctx, s.store)
	list, err := listAll[dataset.Pool](t, "pools/")
	if err != nil {
		return nil, err
	}
	out := make([]api.Pool, 0, len(list))
	for _, p := range list {
		out = append(out, api.Pool{Pool: p, NodeName: t.nodeName(p.Node), Status: s.poolStatus(p.ID)})
	}
	return out, nil
}

// nodeName is a node's name, or its UUID when it is not known.
func (t *tx) nodeName(id uuid.UUID) string {
	var n dataset.Node
	if ok, err := t.get(nodeKey(id), &n); err == nil && ok {
		return n.Name
	}
	return id.String()
}

// listAll reads every object under a prefix that holds few.
func listAll[T any](t *tx, prefix string) ([]T, error) {
	entries, err := t.store.List(t.ctx, prefix, "", 0)
	if err != nil {
		return nil, unavailable(err)
	}
	out := make([]T, len(entries))
	for i, e := range entries {
		if err := decode(e.Key, e.Value, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}
