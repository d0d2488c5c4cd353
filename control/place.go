package control

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/selector"
)

// site is a node on which something new could be put, with its pools in the order in
// which it lists them.
type site struct {
	dataset.Node
	facts *dataset.Facts // nil: not told yet
	pools []candidate
}

// order is what is to be put somewhere.
type order struct {
	id      uuid.UUID // of the dataset to be
	what    string    // for an error: volume db
	profile dataset.Profile
	where   selector.Expr // the profile's placement
	asking  uuid.UUID     // node that asks; nil: none
	here    bool          // no other will do: what it is made from is there
	named   bool          // an error names the node even where there is but one
	had     dataset.Size  // that it has already, for which no pool is too small
}

// placement reads the expression of a profile, which was checked when it was loaded:
// one on record may be of another version.
func placement(p dataset.Profile) (selector.Expr, error) {
	if p.Placement == "" {
		return selector.Expr{}, nil
	}
	e, err := selector.Parse(p.Placement)
	if err != nil {
		err = fmt.Errorf("placement of profile %s: %w", p.Name, err)
	}
	return e, err
}

// place chooses the pool for something new: the first of the asking node that fits;
// when there is none, one of all others, spread by free space.
func (s *Service) place(t *tx, o order) (c candidate, err error) {
	if o.where, err = placement(o.profile); err != nil {
		return c, err
	}
	if o.asking != uuid.Nil {
		sites, err := s.site(t, o)
		if err != nil {
			return c, err
		}
		if c, fits := first(sites, o); fits {
			return c, t.rest(c)
		}
		if o.here {
			return c, s.withOthers(t, refuse(sites, o), sites, o)
		}
	}
	sites, err := s.sites(t)
	if err != nil {
		return c, err
	}
	var fit []candidate
	for i := range sites {
		if c, fits := first(sites[i:i+1], o); fits {
			fit = append(fit, c)
		}
	}
	if len(fit) == 0 {
		if err := unknownPool(sites, s.seen.unmadePools(), o.profile.Pool); err != nil {
			return c, err
		}
		sites = askingFirst(sites, o.asking)
		return c, s.withOthers(t, refuse(sites, o), sites, o)
	}
	c = spread(fit, o.id)
	return c, t.rest(c)
}

// unknownPool fails with ErrInvalid, listing those there are, for a pool that nobody has.
func unknownPool(sites []site, unmade []api.Pool, name string) error {
	var names []string
	for _, st := range sites {
		for _, c := range st.pools {
			names = append(names, c.Name)
		}
	}
	if name == "" || len(names) == 0 || slices.Contains(names, name) {
		return nil
	}
	for _, p := range unmade {
		if p.Name == name && p.Status != nil {
			return dataset.Errorf(dataset.ErrOffline, "pool %s of node %s is offline: %s", name, p.NodeName, p.Status.Reason)
		}
	}
	slices.Sort(names)
	return dataset.Errorf(dataset.ErrInvalid, "unknown pool %q (have: %s)", name, dataset.Have(slices.Compact(names)))
}

// rest has the decision rest on the pool and node that were chosen: there may be more
// than a transaction can check.
func (t *tx) rest(c candidate) error {
	_, err := t.get(poolKey(c.ID), &dataset.Pool{})
	_, nerr := t.get(nodeKey(c.Node), &dataset.Node{})
	return errors.Join(err, nerr)
}

// site reads the asking node; none when it is not known.
func (s *Service) site(t *tx, o order) ([]site, error) {
	var st site
	ok, err := t.get(nodeKey(o.asking), &st.Node)
	if err != nil || !ok {
		return nil, err
	}
	if o.profile.Placement != "" {
		var f dataset.Facts
		ok, err := t.peek(factsKey(o.asking), &f)
		if err != nil {
			return nil, err
		}
		if ok {
			st.facts = &f
		}
	}
	st.pools, err = s.candidates(t, o.asking)
	return []site{st}, err
}

// sites reads all nodes, their facts and pools.
func (s *Service) sites(t *tx) ([]site, error) {
	nodes, err := t.flock()
	if err != nil {
		return nil, err
	}
	pools, err := listAll[dataset.Pool](t, poolsPrefix)
	if err != nil {
		return nil, err
	}
	live, err := s.living(t)
	if err != nil {
		return nil, err
	}
	by := map[uuid.UUID]dataset.Pool{}
	for _, p := range pools {
		by[p.ID] = p
	}
	out := make([]site, len(nodes))
	for i, n := range nodes {
		out[i] = site{Node: n.Node, facts: n.Facts}
		for _, id := range n.Pools {
			if p, ok := by[id]; ok && p.Node == n.ID {
				out[i].pools = append(out[i].pools, candidate{Pool: p, cordoned: n.Cordoned, dropped: slices.Contains(n.Dropped, id), silent: s.Shared && live[n.ID].Node != n.ID, guarded: s.seen.guarded(n.ID), status: s.poolStatus(n.Facts, id)})
			}
		}
	}
	return out, nil
}

// poolStatus is what is known of a pool: what its node says to this service, or else
// what it had put on record.
func (s *Service) poolStatus(f *dataset.Facts, id uuid.UUID) *dataset.PoolStatus {
	if st := s.seen.pool(id); st != nil || f == nil {
		return st
	}
	p, ok := f.Pool(id)
	if !ok {
		return nil
	}
	return &dataset.PoolStatus{ID: id, Online: p.Online, Reason: "its node says so", Size: p.Size, Free: p.Free}
}

// unfit says why a pool of a site is not for an order; "" when it is. would reports that
// it is, but for what may pass: the pool or its node is away. Pure.
func (st site) unfit(c candidate, o order) (why string, would bool) {
	if why := misfit(c, o.profile); why != "" {
		if c.unasked() && chosen(c, o.profile) {
			return c.away(), true
		}
		return why, false
	}
	if why := c.less(o.profile.Size, o.had); why != "" {
		return why, false
	}
	if o.profile.Placement != "" {
		if st.facts == nil {
			return "its facts are not known yet", true
		}
		pool, known := st.facts.Pool(c.ID)
		if !known && o.where.OfPool() {
			return "its facts are not known yet", true
		}
		if why := o.where.Misfit(selector.Env{Node: st.Node, Facts: *st.facts, Pool: pool}); why != "" {
			return why, false
		}
	}
	why = c.away()
	return why, why != ""
}

// first returns the first pool of these sites that fits. Pure.
func first(sites []site, o order) (candidate, bool) {
	for _, st := range sites {
		for _, c := range st.pools {
			if why, _ := st.unfit(c, o); why == "" {
				return c, true
			}
		}
	}
	return candidate{}, false
}

// spread chooses among pools by what is free on them: one with twice as much is chosen
// twice as often, so that of many creates at once not all go where there is most. Which
// one that is for a dataset rests on its UUID alone (weighted rendezvous hashing). Pure.
func spread(fit []candidate, id uuid.UUID) candidate {
	score := func(c candidate) float64 {
		sum := sha256.Sum256(bytes.Join([][]byte{id[:], c.ID[:]}, nil))
		even := (float64(binary.BigEndian.Uint64(sum[:])>>11) + 1) / (1 << 53) // above 0, up to 1
		free := 1.0
		if c.status != nil {
			free = max(free, float64(c.status.Free))
		}
		return -math.Log(even) / free
	}
	return slices.MinFunc(fit, func(x, y candidate) int { return cmp.Compare(score(x), score(y)) })
}

func askingFirst(sites []site, asking uuid.UUID) []site {
	slices.SortStableFunc(sites, func(x, y site) int {
		mine := func(st site) int {
			if st.ID == asking {
				return 0
			}
			return 1
		}
		return cmp.Or(mine(x)-mine(y), strings.Compare(x.Name, y.Name))
	})
	return sites
}

// refusedShown is how many pools or nodes an error names of those with one reason, and
// refusedLength about how many bytes of reasons it has.
const (
	refusedShown  = 3
	refusedLength = 330
)

// listed is the names in an error, of many the first.
func listed(what string, names []string) string {
	switch more := len(names) - refusedShown; {
	case len(names) == 1:
		return what + " " + names[0]
	case more > 1:
		return fmt.Sprintf("%ss %s and %d more", what, strings.Join(names[:refusedShown], ", "), more)
	}
	return what + "s " + strings.Join(names, ", ")
}

// reasons are why nodes or pools are not for an order, in the order in which they came up.
type reasons struct {
	lines []string
	by    map[string][]string // names by line
}

func (r *reasons) add(name, line string) {
	if r.by == nil {
		r.by = map[string][]string{}
	}
	if r.by[line] == nil {
		r.lines = append(r.lines, line)
	}
	r.by[line] = append(r.by[line], name)
}

// text says what is not for an order, and why: what comes first, and of how many more.
func (r *reasons) text(what, between string) string {
	var parts []string
	long, more := 0, 0
	for i, line := range r.lines {
		part := listed(what, r.by[line]) + ": " + line
		if long += len(part); i > 0 && long > refusedLength || more > 0 {
			more += len(r.by[line])
			continue
		}
		parts = append(parts, part)
	}
	switch {
	case more == 1:
		parts = append(parts, "and 1 more "+what)
	case more > 1:
		parts = append(parts, fmt.Sprintf("and %d more %ss", more, what))
	}
	return strings.Join(parts, between)
}

// refuse is the error when nothing fits, with the reasons: ErrOffline when one would fit if
// it were not away, otherwise ErrUnsupported. Pure.
func refuse(sites []site, o order) error {
	var why reasons
	pools, kind, nodes := 0, dataset.ErrUnsupported, o.named || len(sites) > 1
	head, sites := spoken(sites, o.profile.Pool)
	for _, st := range sites {
		pools += len(st.pools)
		reason, would := st.refusal(o, nodes)
		if would {
			kind = dataset.ErrOffline
		}
		why.add(st.Name, reason)
	}
	if pools == 0 {
		return dataset.Errorf(dataset.ErrOffline, "%s: there is no pool (drover pool create makes one)", o.what)
	}
	if pools == 1 && len(sites) == 1 {
		c := sites[0].pools[0]
		reason, would := sites[0].unfit(c, o)
		name, cannot := c.Name, "cannot keep profile "+o.profile.Name
		if nodes {
			name = c.of(sites[0].Name)
		}
		if would {
			cannot = "cannot take it now"
		}
		return dataset.Errorf(kind, "%s: pool %s %s: %s", o.what, name, cannot, reason)
	}
	text := why.lines[0]
	if nodes {
		text = why.text("node", "; ")
	}
	return dataset.Errorf(kind, "%s: %s can keep profile %s: %s", o.what, head, o.profile.Name, text)
}

// refusal says why nothing of a site is for an order, each reason once.
func (st site) refusal(o order, named bool) (line string, would bool) {
	var why reasons
	for _, c := range st.pools {
		reason, w := st.unfit(c, o)
		would = would || w
		why.add(c.Name, reason)
	}
	switch {
	case len(st.pools) == 0:
		return "it has no pool", false
	case !named:
		return why.text("pool", "; "), would
	case len(why.lines) == 1 && len(st.pools) > 1:
		return why.lines[0], would
	}
	return why.text("pool", ", "), would
}
