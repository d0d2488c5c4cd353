package control

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/selector"
)

// placementExpr parses the placement expression of a profile. It was checked when the profile was loaded, but a
// recorded profile may come from another version.
func placementExpr(p dataset.Profile) (selector.Expr, error) {
	if p.Placement == "" {
		return selector.Expr{}, nil
	}
	e, err := selector.Parse(p.Placement)
	if err != nil {
		err = fmt.Errorf("placement of profile %s: %w", p.Name, err)
	}
	return e, err
}

// place chooses the pool for something new: the first pool of the asking node that fits. If there is none, it
// chooses among the pools of all other nodes, spread by free space.
func (s *Service) place(t *record.Tx, o placement.Requirement) (c placement.Candidate, err error) {
	if o.Where, err = placementExpr(o.Profile); err != nil {
		return c, err
	}
	if o.Asking != uuid.Nil {
		sites, err := s.site(t, o)
		if err != nil {
			return c, err
		}
		if c, fits := placement.First(sites, o); fits {
			return c, dependOnPool(t, c)
		}
		if o.Here {
			return c, s.withOthers(t, placement.Refuse(sites, o), sites, o)
		}
	}
	sites, err := s.sites(t)
	if err != nil {
		return c, err
	}
	var fit []placement.Candidate
	for i := range sites {
		if c, fits := placement.First(sites[i:i+1], o); fits {
			fit = append(fit, c)
		}
	}
	if len(fit) == 0 {
		if err := unknownPool(sites, s.reported.UnmadePools(), o.Profile.Pool); err != nil {
			return c, err
		}
		sites = askingFirst(sites, o.Asking)
		return c, s.withOthers(t, placement.Refuse(sites, o), sites, o)
	}
	c = placement.Spread(fit, o.ID)
	return c, dependOnPool(t, c)
}

// unknownPool fails with dataset.ErrInvalid, with the existing pools, if no node has a pool of that name.
func unknownPool(sites []placement.Site, unmade []api.Pool, name string) error {
	var names []string
	for _, st := range sites {
		for _, c := range st.Pools {
			names = append(names, c.Name)
		}
	}
	if name == "" || len(names) == 0 || slices.Contains(names, name) {
		return nil
	}
	for _, p := range unmade {
		if p.Name == name && p.Status != nil {
			return dataset.Errorf(dataset.ErrOffline, "pool %s of node %s is offline: %s", name, p.NodeName,
				p.Status.Reason)
		}
	}
	slices.Sort(names)
	return dataset.Errorf(dataset.ErrInvalid, "unknown pool %q (have: %s)", name, dataset.Have(slices.Compact(names)))
}

// dependOnPool makes the decision depend on the chosen pool and node only, because there may be more than a transaction
// can check.
func dependOnPool(t *record.Tx, c placement.Candidate) error {
	_, err := t.Get(record.PoolKey(c.ID), &dataset.Pool{})
	_, nerr := t.Get(record.NodeKey(c.Node), &dataset.Node{})
	return errors.Join(err, nerr)
}

// site reads the asking node; none if it is not known.
func (s *Service) site(t *record.Tx, o placement.Requirement) ([]placement.Site, error) {
	var st placement.Site
	ok, err := t.Get(record.NodeKey(o.Asking), &st.Node)
	if err != nil || !ok {
		return nil, err
	}
	if o.Profile.Placement != "" {
		var f dataset.Facts
		ok, err := t.Peek(record.FactsKey(o.Asking), &f)
		if err != nil {
			return nil, err
		}
		if ok {
			st.Facts = &f
		}
	}
	st.Pools, err = s.candidates(t, o.Asking)
	return []placement.Site{st}, err
}

// sites reads all nodes with their facts and pools.
func (s *Service) sites(t *record.Tx) ([]placement.Site, error) {
	nodes, err := membership.NodesWithFacts(t)
	if err != nil {
		return nil, err
	}
	pools, err := record.ListAll[dataset.Pool](t, record.PoolsPrefix)
	if err != nil {
		return nil, err
	}
	live, err := s.Members.Living(t)
	if err != nil {
		return nil, err
	}
	by := map[uuid.UUID]dataset.Pool{}
	for _, p := range pools {
		by[p.ID] = p
	}
	out := make([]placement.Site, len(nodes))
	for i, n := range nodes {
		out[i] = placement.Site{Node: n.Node, Facts: n.Facts}
		for _, id := range n.Pools {
			if p, ok := by[id]; ok && p.Node == n.ID {
				out[i].Pools = append(out[i].Pools, placement.Candidate{
					Pool:     p,
					Cordoned: n.Cordoned,
					Dropped:  slices.Contains(n.Dropped, id),
					Silent:   s.Shared && live[n.ID].Node != n.ID,
					Guarded:  s.reported.Guarded(n.ID),
					Status:   s.poolStatus(n.Facts, id),
				})
			}
		}
	}
	return out, nil
}

// poolStatus returns what is known of a pool: what its node reports to this service, or else what it recorded.
func (s *Service) poolStatus(f *dataset.Facts, id uuid.UUID) *dataset.PoolStatus {
	if st := s.reported.Pool(id); st != nil || f == nil {
		return st
	}
	p, ok := f.Pool(id)
	if !ok {
		return nil
	}
	return &dataset.PoolStatus{ID: id, Online: p.Online, Reason: "its node says so", Size: p.Size, Free: p.Free}
}

func askingFirst(sites []placement.Site, asking uuid.UUID) []placement.Site {
	slices.SortStableFunc(sites, func(x, y placement.Site) int {
		mine := func(st placement.Site) int {
			if st.ID == asking {
				return 0
			}
			return 1
		}
		return cmp.Or(mine(x)-mine(y), strings.Compare(x.Name, y.Name))
	})
	return sites
}
