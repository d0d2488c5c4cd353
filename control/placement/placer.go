package placement

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
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/selector"
)

// Placer reads the nodes and pools of a cluster, and chooses among them by the rules of package placement. It has no
// state. Its methods are safe for concurrent use.
type Placer struct {
	Members *membership.Members
	Reports *reports.Latest
}

// New returns a Placer.
func New(m *membership.Members) *Placer { return &Placer{m, m.Reports} }

// Place chooses the pool for a new dataset: the first pool of the requesting node that fits. If no pool of that node
// fits, it chooses among the first fitting pools of the other nodes: a pool with more free space is chosen more often.
// With o.RequesterOnly, it considers only the requesting node, and with o.Node only that node. It fails with
// dataset.ErrInvalid if no node has a pool of the requested name, and with ErrOffline or ErrUnsupported if no pool
// fits.
func (s *Placer) Place(t *record.Tx, o Requirement) (c Candidate, err error) {
	if o.Placement, err = ParsePlacement(o.Profile); err != nil {
		return c, err
	}
	if o.Node != uuid.Nil {
		return s.placeOn(t, o)
	}
	if o.Requester != uuid.Nil {
		sites, err := s.site(t, o)
		if err != nil {
			return c, err
		}
		if c, fits := FirstFit(sites, o); fits {
			return c, dependOnPool(t, c)
		}
		if o.RequesterOnly {
			all, err := s.Sites(t)
			if err != nil {
				return c, err
			}
			if err := unknownPool(all, s.Reports.FailedPools(), o.Profile.Pool); err != nil {
				return c, err
			}
			return c, s.SuggestOthers(t, NoPoolError(sites, o), sites, o)
		}
	}
	sites, err := s.Sites(t)
	if err != nil {
		return c, err
	}
	var fit []Candidate
	for i := range sites {
		if c, fits := FirstFit(sites[i:i+1], o); fits {
			fit = append(fit, c)
		}
	}
	if len(fit) == 0 {
		if err := unknownPool(sites, s.Reports.FailedPools(), o.Profile.Pool); err != nil {
			return c, err
		}
		sites = requesterFirst(sites, o.Requester)
		return c, s.SuggestOthers(t, NoPoolError(sites, o), sites, o)
	}
	c = Spread(fit, o.ID)
	return c, dependOnPool(t, c)
}

// Spread chooses one of several pools by their free space: a pool with twice as much free space is chosen twice as
// often. If it always chose the emptiest pool, many concurrent creates would all go to that pool. The choice depends
// only on the UUID of the dataset and on the pools (weighted rendezvous hashing).
func Spread(fit []Candidate, id uuid.UUID) Candidate {
	score := func(c Candidate) float64 {
		sum := sha256.Sum256(bytes.Join([][]byte{id[:], c.ID[:]}, nil))
		even := (float64(binary.BigEndian.Uint64(sum[:])>>11) + 1) / (1 << 53) // above 0, up to 1
		free := 1.0
		if c.Status != nil {
			free = max(free, float64(c.Status.Free))
		}
		return -math.Log(even) / free
	}
	return slices.MinFunc(fit, func(x, y Candidate) int { return cmp.Compare(score(x), score(y)) })
}

// placeOn chooses the first pool that fits on the node that the requirement names.
func (s *Placer) placeOn(t *record.Tx, o Requirement) (c Candidate, err error) {
	all, err := s.Sites(t)
	if err != nil {
		return c, err
	}
	var sites []Site
	for _, st := range all {
		if st.ID == o.Node {
			sites = append(sites, st)
		}
	}
	if c, fits := FirstFit(sites, o); fits {
		return c, dependOnPool(t, c)
	}
	if err := unknownPool(all, s.Reports.FailedPools(), o.Profile.Pool); err != nil {
		return c, err
	}
	if err := checkHasPool(sites, o); err != nil {
		return c, err
	}
	o.NameNode = true
	return c, s.SuggestOthers(t, NoPoolError(sites, o), sites, o)
}

// checkHasPool fails with dataset.ErrInvalid if the chosen node has no pool with the requested name.
func checkHasPool(sites []Site, o Requirement) error {
	for _, st := range sites {
		var names []string
		for _, c := range st.Pools {
			names = append(names, c.Name)
		}
		if o.Profile.Pool != "" && !slices.Contains(names, o.Profile.Pool) {
			return dataset.Errorf(dataset.ErrInvalid, "%s: node %s has no pool %s (its pools: %s)", o.Subject, st.Name,
				o.Profile.Pool, dataset.FormatChoices(names))
		}
	}
	return nil
}

// unknownPool fails with dataset.ErrInvalid, and lists the existing pools, if no node has a pool of that name. If the
// pool is among those that nodes could not open, it fails with dataset.ErrOffline.
func unknownPool(sites []Site, failed []api.Pool, name string) error {
	var names []string
	for _, st := range sites {
		for _, c := range st.Pools {
			names = append(names, c.Name)
		}
	}
	if name == "" || len(names) == 0 || slices.Contains(names, name) {
		return nil
	}
	for _, p := range failed {
		isRecorded := slices.ContainsFunc(sites, func(st Site) bool { return st.ID == p.Node })
		if p.Name == name && p.Status != nil && isRecorded { // otherwise its node was removed since its last report
			return dataset.Errorf(dataset.ErrOffline, "pool %s of node %s is offline: %s", name, p.NodeName,
				p.Status.Reason)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return dataset.Errorf(dataset.ErrInvalid, "unknown pool %q (available: %s)%s", name, dataset.FormatChoices(names),
		dataset.Suggestion(name, names))
}

// dependOnPool makes the decision depend on the chosen pool and its node only, because a cluster may have more pools
// than one transaction can check.
func dependOnPool(t *record.Tx, c Candidate) error {
	_, err := t.Get(record.PoolKey(c.ID), &dataset.Pool{})
	_, nerr := t.Get(record.NodeKey(c.Node), &dataset.Node{})
	return errors.Join(err, nerr)
}

// site reads the requesting node with its pools. It returns no site if the node is not recorded.
func (s *Placer) site(t *record.Tx, o Requirement) ([]Site, error) {
	var st Site
	ok, err := t.Get(record.NodeKey(o.Requester), &st.Node)
	if err != nil || !ok {
		return nil, err
	}
	if o.Profile.Placement != "" {
		var f dataset.Facts
		ok, err := t.Peek(record.FactsKey(o.Requester), &f)
		if err != nil {
			return nil, err
		}
		if ok {
			st.Facts = &f
		}
	}
	st.Pools, err = s.Candidates(t, o.Requester)
	return []Site{st}, err
}

// Sites reads all nodes with their facts and pools.
func (s *Placer) Sites(t *record.Tx) ([]Site, error) {
	nodes, err := membership.NodesWithFacts(t)
	if err != nil {
		return nil, err
	}
	pools, err := record.ListAll[dataset.Pool](t, record.PoolsPrefix)
	if err != nil {
		return nil, err
	}
	live, err := s.Members.LiveAgents(t)
	if err != nil {
		return nil, err
	}
	by := map[uuid.UUID]dataset.Pool{}
	for _, p := range pools {
		by[p.ID] = p
	}
	out := make([]Site, len(nodes))
	for i, n := range nodes {
		out[i] = Site{Node: n.Node, Facts: n.Facts}
		for _, id := range n.Pools {
			if p, ok := by[id]; ok && p.Node == n.ID {
				out[i].Pools = append(out[i].Pools, Candidate{
					Pool:        p,
					Cordoned:    n.Cordoned,
					Unreported:  slices.Contains(n.UnreportedPools, id),
					Unreachable: s.Members.Ledger.Shared && live[n.ID].Node != n.ID,
					Guarded:     s.Reports.Heartbeat(n.ID).Guard,
					Status:      s.poolStatus(n.Facts, id),
				})
			}
		}
	}
	return out, nil
}

// poolStatus returns the status of a pool: the last status that its node reported to this service or, if there is
// none, the status in the recorded facts of the node.
func (s *Placer) poolStatus(f *dataset.Facts, id uuid.UUID) *dataset.PoolStatus {
	if st := s.Reports.Pool(id); st != nil || f == nil {
		return st
	}
	p, ok := f.Pool(id)
	if !ok {
		return nil
	}
	return &dataset.PoolStatus{ID: id, Online: p.Online, Reason: "reported by its node", Size: p.Size, Free: p.Free}
}

func requesterFirst(sites []Site, requester uuid.UUID) []Site {
	slices.SortStableFunc(sites, func(x, y Site) int {
		mine := func(st Site) int {
			if st.ID == requester {
				return 0
			}
			return 1
		}
		return cmp.Or(mine(x)-mine(y), strings.Compare(x.Name, y.Name))
	})
	return sites
}

// Candidates returns the pools of a node in the order in which the node lists them. It does not set
// Candidate.Unreachable: unlike with Sites, the caller must check itself whether the node is alive.
func (s *Placer) Candidates(t *record.Tx, node uuid.UUID) ([]Candidate, error) {
	var n dataset.Node
	if ok, err := t.Get(record.NodeKey(node), &n); err != nil || !ok {
		return nil, err
	}
	var cands []Candidate
	for _, id := range n.Pools {
		var p dataset.Pool
		ok, err := t.Peek(record.PoolKey(id), &p)
		if err != nil {
			return nil, err
		}
		if ok && p.Node == n.ID { // otherwise another node has adopted the pool
			cands = append(cands, Candidate{
				Pool:       p,
				Cordoned:   n.Cordoned,
				Unreported: slices.Contains(n.UnreportedPools, id),
				Guarded:    s.Reports.Heartbeat(n.ID).Guard,
				Status:     s.Reports.Pool(id),
			})
		}
	}
	return cands, nil
}

// CheckFits fails if the present pool of a dataset cannot keep a profile for it, or for a clone of it. had is the
// present size of the dataset.
func (s *Placer) CheckFits(t *record.Tx, d dataset.Dataset, p dataset.Profile, had dataset.Size) error {
	pool, err := t.Pool(d)
	if err != nil {
		return err
	}
	o := Requirement{Subject: "volume " + d.Volume, Profile: p, CurrentSize: had, Size: d.Size}
	cands := []Candidate{{
		Pool:    pool,
		Guarded: s.Reports.Heartbeat(pool.Node).Guard,
		Status:  s.Reports.Pool(pool.ID),
	}}
	if _, err = Choose(cands, o); err != nil {
		return s.SuggestOthers(t, err, []Site{{Pools: cands}}, o)
	}
	return nil
}

// CheckSuits fails with dataset.ErrUnsupported if the pool of a dataset could not keep a new dataset with the given
// profile. It ignores every other error.
func (s *Placer) CheckSuits(t *record.Tx, d dataset.Dataset, p dataset.Profile) error {
	if err := s.CheckFits(t, d, p, max(p.Size, d.Size)); dataset.KindOf(err) == dataset.ErrUnsupported {
		return err
	}
	return nil
}

// Oversize returns the size of a dataset if it is larger than the whole pool, and 0 otherwise. The storage of a pool
// can be replaced by a smaller one. Such a dataset may move to another pool even if it is larger than that pool too.
func (s *Placer) Oversize(d dataset.Dataset) dataset.Size {
	if st := s.Reports.Pool(d.Pool); st != nil && st.Size > 0 && d.Size > st.Size {
		return d.Size
	}
	return 0
}

// SuggestOthers adds a hint to the error that no pool of the sites satisfies a requirement. The hint names other
// pools that satisfy it or, if there are none, says what would help.
func (s *Placer) SuggestOthers(t *record.Tx, refusal error, sites []Site, o Requirement) error {
	all := sites
	if !o.RequesterOnly {
		var err error
		if all, err = s.Sites(t); err != nil {
			return err
		}
		if o.Placement, err = ParsePlacement(o.Profile); err != nil {
			return err
		}
	}
	who, large := SuggestPools(sites, all, o)
	switch {
	case who != "":
		return fmt.Errorf("%w (%s)", refusal, who)
	case large:
		return fmt.Errorf("%w (choose a smaller size or another profile, or enlarge the pool)", refusal)
	}
	return refusal
}

// WhyKindUnsuitable returns why no pool of a backend could keep a profile on any host; "" if one could. best has the
// capabilities that a pool of that backend has at best.
func WhyKindUnsuitable(backend string, best dataset.Capabilities, p dataset.Profile) string {
	c := Candidate{Pool: dataset.Pool{Name: p.Pool, Backend: backend, Capabilities: best}, Guarded: true}
	if best.OwnDevice {
		c.Capabilities.Limits = dataset.LimitsStrict
	}
	if best.ManyHosts {
		c.Share = uuid.Max // any share will do
	}
	return WhyUnsuitable(c, p)
}

// ParsePlacement parses the placement expression of a profile. It was checked when the profile was loaded, but a
// recorded profile may be damaged.
func ParsePlacement(p dataset.Profile) (selector.Expr, error) {
	if p.Placement == "" {
		return selector.Expr{}, nil
	}
	e, err := selector.Parse(p.Placement)
	if err != nil {
		err = fmt.Errorf("placement of profile %s: %w", p.Name, err)
	}
	return e, err
}

// SuggestPools returns a hint for the error that no pool of the argument sites satisfies a requirement. The hint names
// pools of the sites in the argument all that satisfy it. SuggestPools returns "" if there is none. If the pools of the
// sites are suitable and only offline, SuggestPools returns "". large is true if one of the sites has a pool that is
// unsuitable only because the dataset is too large for it.
func SuggestPools(sites, all []Site, o Requirement) (who string, large bool) {
	head, sites := FilterByName(sites, o.Profile.Pool)
	lacks := false
	for _, st := range sites {
		for _, c := range st.Pools {
			why := WhyUnsuitable(c, o.Profile)
			small := why == "" && c.WhyTooSmall(o.sizeOn(c), o.CurrentSize) != ""
			lacks, large = lacks || small || why != "" && !c.IsUnopened(), large || small
		}
	}
	if !lacks {
		return "", false
	}
	if head != "no pool" { // the pool with the requested name is unsuitable, but another one may be suitable
		o.Profile.Pool = ""
	}
	o.CurrentSize = 0 // another pool does not have the data yet, so its size counts
	var names []string
	for _, st := range all {
		for _, c := range st.Pools {
			if why, _ := st.WhyUnfit(c, o); why == "" {
				names = append(names, c.QualifiedName(st.Name))
			}
		}
	}
	return FormatPools(names), large
}

// FormatPools formats a hint for an error that these pools satisfy the requirement; "" without pools.
func FormatPools(names []string) string {
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	if len(names) > NamesShown {
		names = append(names[:NamesShown], "others")
	}
	return "pool " + strings.Join(names, ", ") + " could"
}
