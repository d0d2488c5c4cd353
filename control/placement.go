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
	cordoned bool
	status   *dataset.PoolStatus // nil: not heard of, and taken for good
}

// misfit says why a profile cannot be kept on a pool, whatever its state; ""
// when it can. Pure.
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
	}
	return ""
}

// away says why nothing new can be put on a pool that would fit; "" when it can.
func (c candidate) away() string {
	switch {
	case c.cordoned:
		return "its node is cordoned"
	case c.status != nil && !c.status.Online:
		return "it is offline: " + c.status.Reason
	}
	return ""
}

// choose picks the first candidate that fits; otherwise the error gives each
// one's reason: ErrOffline when one would fit if it were not away, otherwise
// ErrUnsupported. Pure. What the profile is for is in what.
func choose(cands []candidate, p dataset.Profile, what string) (candidate, error) {
	if len(cands) == 0 {
		return candidate{}, dataset.Errorf(dataset.ErrOffline, "%s: there is no pool (drover pool create makes one)", what)
	}
	var why []string
	kind := dataset.ErrUnsupported
	for _, c := range cands {
		reason := misfit(c, p)
		if reason == "" {
			if reason = c.away(); reason == "" {
				return c, nil
			}
			kind = dataset.ErrOffline
		}
		why = append(why, "pool "+c.Name+": "+reason)
	}
	return candidate{}, dataset.Errorf(kind, "%s: no pool can keep profile %s: %s", what, p.Name, strings.Join(why, "; "))
}

// candidates returns the pools of a node in the order in which it lists them;
// of all nodes for a nil one.
func (s *Service) candidates(t *tx, node uuid.UUID) ([]candidate, error) {
	var nodes []dataset.Node
	if node == uuid.Nil {
		var err error
		if nodes, err = listAll[dataset.Node](t, nodesPrefix); err != nil {
			return nil, err
		}
	} else {
		var n dataset.Node
		if ok, err := t.get(nodeKey(node), &n); err != nil {
			return nil, err
		} else if ok {
			nodes = append(nodes, n)
		}
	}
	var cands []candidate
	for _, n := range nodes {
		for _, id := range n.Pools {
			var p dataset.Pool
			ok, err := t.peek(poolKey(id), &p)
			if err != nil {
				return nil, err
			}
			if ok && p.Node == n.ID { // not one that another node has adopted
				cands = append(cands, candidate{p, n.Cordoned, s.seen.pool(id)})
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
	c, err := choose(cands, p, what)
	if err != nil {
		return c, err
	}
	// The decision rests on this one: there may be more than a transaction can check.
	_, err = t.get(poolKey(c.ID), &dataset.Pool{})
	return c, err
}

// fits checks that a dataset, where it lies, can have a profile.
func (s *Service) fits(t *tx, d dataset.Dataset, p dataset.Profile) error {
	pool, err := t.pool(d)
	if err == nil {
		_, err = choose([]candidate{{Pool: pool, status: s.seen.pool(pool.ID)}}, p, "volume "+d.Volume)
	}
	return err
}

// Pools lists all pools of all nodes: those on record, then those that nodes are
// configured with and could not make, which have no UUID.
func (s *Service) Pools(ctx context.Context) ([]api.Pool, error) {
	t := newTx(ctx, s.store)
	list, err := listAll[dataset.Pool](t, poolsPrefix)
	if err != nil {
		return nil, err
	}
	out := make([]api.Pool, 0, len(list))
	for _, p := range list {
		name, err := t.nodeName(p.Node)
		if err != nil {
			return nil, err
		}
		out = append(out, api.Pool{Pool: p, NodeName: name, Status: s.seen.pool(p.ID)})
	}
	for _, u := range s.seen.unmadePools() {
		i := slices.IndexFunc(out, func(p api.Pool) bool { return p.Node == u.Node && p.Name == u.Name })
		if i < 0 {
			out = append(out, u)
		} else if out[i].Status == nil { // on record, and not found where it is configured
			out[i].Status = u.Status
		}
	}
	return out, nil
}

// nodeName is a node's name, or its UUID when it is not known.
func (t *tx) nodeName(id uuid.UUID) (string, error) {
	var n dataset.Node
	ok, err := t.get(nodeKey(id), &n)
	if err == nil && !ok {
		return id.String(), nil
	}
	return n.Name, err
}

// listAll reads every object under a prefix that holds few.
func listAll[T any](t *tx, prefix string) ([]T, error) {
	entries, err := t.list(prefix, "", 0)
	if err != nil {
		return nil, err
	}
	out := make([]T, len(entries))
	for i, e := range entries {
		if err := decode(e.Key, e.Value, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}
