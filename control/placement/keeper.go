package placement

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
)

// CopyKeeper decides which copies are kept. It has no state. Its methods are safe for concurrent use.
type CopyKeeper struct {
	Ledger  *record.Ledger
	Reports *reports.Latest
	Placer  *Placer
	Uptime  *record.Uptime
	// MaxReportAge is the maximum age of a node's report. An older report is ignored.
	MaxReportAge time.Duration
}

// NewKeeper returns a CopyKeeper.
func NewKeeper(p *Placer, u *record.Uptime) *CopyKeeper {
	m := p.Members
	return &CopyKeeper{m.Ledger, m.Reports, p, u, m.Timing.MaxClockAge()}
}

const (
	// LeftCopyRetention is how long the previous home keeps its copy at least, so that a move back is short.
	LeftCopyRetention = 24 * time.Hour
	// copiesShown bounds how many copies an error names.
	copiesShown = 5
	// readSize is the maximum number of records that one read returns.
	readSize = 1000
)

// Maintain makes sure that as many nodes besides the home keep a fresh copy of a volume as its profile requires. If
// too few nodes can keep a replica, it adds as many replicas as possible, and returns an error with the reason for
// each of the other nodes.
func (s *CopyKeeper) Maintain(ctx context.Context, d dataset.Dataset) error {
	if d.State != dataset.StateReady || d.Profile.Replicas.Count == 0 && len(d.Copies) == 0 {
		return nil
	}
	var shortage error
	_, err := s.Ledger.Update(ctx, func(t *record.Tx) error {
		shortage = nil
		now, err := t.Dataset(d.ID)
		if err != nil || now.State != dataset.StateReady {
			return err
		}
		shortage, err = s.Decide(t, now)
		return err
	})
	return cmp.Or(err, shortage)
}

// Decide decides which copies of a dataset are kept fresh: it adds missing replicas and condemns surplus ones. shortage
// is an error that says why there are too few replicas. It is nil if there are enough.
func (s *CopyKeeper) Decide(t *record.Tx, d dataset.Dataset) (shortage, err error) {
	var good, leaving, left []dataset.Copy
	for _, node := range d.Copies {
		var c dataset.Copy
		var n dataset.Node
		there, err := t.Get(record.CopyKey(node, d.ID), &c)
		if err == nil && there {
			_, err = t.Get(record.NodeKey(node), &n)
		}
		switch {
		case err != nil:
			return nil, err
		case c.Kind == dataset.CopyReplica && n.Draining:
			leaving = append(leaving, c)
		case c.Kind == dataset.CopyReplica:
			good = append(good, c)
		case c.Kind == dataset.CopyLeft && !n.Cordoned:
			left = append(left, c)
		}
	}
	want := d.Profile.Replicas.Count
	if len(good) < want {
		return s.AddReplicas(t, d, left, want-len(good))
	}
	if len(good) == want && len(leaving) == 0 {
		return nil, nil
	}
	if last, err := s.mayBeLast(t, d); err != nil || last {
		return nil, err
	}
	good, usable, err := s.usableFirst(t, good)
	if err != nil || usable < want {
		return nil, err // the other copies cannot replace those that would be removed
	}
	surplus := slices.Concat(leaving, good[want:])
	target, err := moveDestination(t, d)
	if err != nil {
		return nil, err
	}
	for _, c := range surplus {
		if c.Node == target { // the move continues from the target's copy
			continue
		}
		if err := record.CondemnCopy(t, c.Node, d.ID); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// usableFirst sorts the copies into two groups. The first group has the copies from which a volume could continue
// now: according to recent reports they are complete, and their pool is online on a node that is alive. The second
// group has the other copies. In each group the freshest copy is first. usable is the size of the first group.
func (s *CopyKeeper) usableFirst(t *record.Tx, list []dataset.Copy) (sorted []dataset.Copy, usable int, err error) {
	var unusable []dataset.Copy
	for _, c := range list {
		pool, alive := s.Reports.Pool(c.Pool), true
		if s.Ledger.Shared {
			if _, alive, err = membership.LivingSession(t, c.Node); err != nil {
				return nil, 0, err
			}
			alive = alive && pool != nil && s.Ledger.Clock.Steady()-s.Reports.Heartbeat(c.Node).At <= s.MaxReportAge
		}
		if alive && c.Snapshot != uuid.Nil && (pool == nil || pool.Online) {
			sorted = append(sorted, c)
		} else {
			unusable = append(unusable, c)
		}
	}
	for _, l := range [][]dataset.Copy{sorted, unusable} {
		slices.SortStableFunc(l, func(x, y dataset.Copy) int { return y.At().Compare(x.At()) })
	}
	return append(sorted, unusable...), len(sorted), nil
}

// AddReplicas adds n replicas of a dataset. It first turns the copies that moves left behind, which are in the argument
// left, into replicas. Then it adds replicas in pools of other nodes, in the order of replicaPools. shortage is as in
// Decide.
func (s *CopyKeeper) AddReplicas(t *record.Tx, d dataset.Dataset, left []dataset.Copy, n int) (shortage, err error) {
	if left, _, err = s.usableFirst(t, left); err != nil {
		return nil, err
	}
	for _, c := range left[:min(n, len(left))] {
		c.Kind, c.Expires, c.RunTime = dataset.CopyReplica, time.Time{}, 0
		if err := record.PutCopy(t, &d, c); err != nil {
			return nil, err
		}
		n--
	}
	if n == 0 {
		return nil, nil
	}
	if lost, err := s.isHomeLost(t, d); err != nil || lost {
		// Add no replica while control cannot reach the home. The home may continue to work without control. Because
		// it does not know the new replica, it would not ask the node of that replica for a promise.
		home, err2 := t.NodeName(d.Home)
		return tooFewError(d, []string{"node " + home + ", which has it, is unreachable"}), cmp.Or(err, err2)
	}
	cands, why, err := s.replicaPools(t, d)
	if err != nil {
		return nil, err
	}
	for _, c := range cands[:min(n, len(cands))] {
		var node dataset.Node
		if _, err := t.Get(record.NodeKey(c.Node), &node); err != nil {
			return nil, err
		}
		if there, err := t.Get(record.PoolKey(c.ID), &dataset.Pool{}); err != nil {
			return nil, err
		} else if !there || node.Cordoned { // cordoned since the copy was chosen
			continue
		}
		if err := record.PutCopy(t, &d, dataset.Copy{
			Dataset: d.ID,
			Node:    c.Node,
			Pool:    c.ID,
			Kind:    dataset.CopyReplica,
		}); err != nil {
			return nil, err
		}
		n--
	}
	if n > 0 {
		shortage = tooFewError(d, why)
	}
	return shortage, nil
}

// Shortage returns why a dataset has fewer replicas than its profile requires: one reason for each pool that cannot
// keep one. It returns "" if it has enough, or if other nodes can keep the missing ones. It decides as Decide does,
// and changes nothing.
func (s *CopyKeeper) Shortage(t *record.Tx, d dataset.Dataset) (string, error) {
	missing := d.Profile.Replicas.Count
	var blocked []string
	for _, node := range d.Copies {
		reason, err := whyNoReplica(t, d, node)
		if err != nil {
			return "", err
		}
		if reason == "" {
			missing--
		} else {
			blocked = append(blocked, reason)
		}
	}
	if missing <= 0 {
		return "", nil
	}
	if lost, err := s.isHomeLost(t, d); err != nil || lost {
		return "", err // its home is unreachable, which has a finding
	}
	candidates, why, err := s.replicaPools(t, d)
	if err != nil || len(candidates) >= missing {
		return "", err
	}
	return joinReasons(append(blocked, why...)), nil
}

// replicaPools returns one pool of each node that has no copy and can keep one. Pools that are more similar to the
// present pool come first, and among equally similar ones those with more free space. why has the reasons why the other
// pools cannot keep a copy.
func (s *CopyKeeper) replicaPools(t *record.Tx, d dataset.Dataset) (candidates []Candidate, why []string, err error) {
	from, err := t.Pool(d)
	if err != nil {
		return nil, nil, err
	}
	o := Requirement{ID: d.ID, Profile: d.Profile, CurrentSize: s.Placer.Oversize(d), Size: d.Size}
	if o.Placement, err = ParsePlacement(d.Profile); err != nil {
		return nil, nil, err
	}
	sites, err := s.Placer.Sites(t)
	if err != nil {
		return nil, nil, err
	}
	for _, st := range sites {
		if st.ID == d.Home || slices.Contains(d.Copies, st.ID) {
			continue
		}
		for _, c := range st.Pools {
			c.WithFilesystem = Likeness(from, c.Pool) >= LikeKind
			reason, _ := st.WhyUnfit(c, o)
			if reason == "" && !c.WithFilesystem {
				reason = "it accepts no differences from pool " + from.Name + " (" + from.Backend + ")"
			}
			if reason != "" {
				why = append(why, "pool "+c.QualifiedName(st.Name)+": "+reason)
				continue
			}
			candidates = append(candidates, c)
		}
	}
	free := func(c Candidate) dataset.Size {
		if c.Status == nil {
			return 0
		}
		return c.Status.Free
	}
	slices.SortStableFunc(candidates, func(x, y Candidate) int {
		return cmp.Or(cmp.Compare(Likeness(from, y.Pool), Likeness(from, x.Pool)), cmp.Compare(free(y), free(x)))
	})
	nodes := map[uuid.UUID]bool{}
	candidates = slices.DeleteFunc(candidates, func(c Candidate) bool {
		twice := nodes[c.Node]
		nodes[c.Node] = true
		return twice
	})
	return candidates, why, nil
}

// reasonsShown bounds how many reasons an error gives.
const reasonsShown = 10

func tooFewError(d dataset.Dataset, why []string) error {
	return dataset.Errorf(dataset.ErrUnsupported,
		"volume %s: profile %s requires replicas on more nodes than can have one: %s", d.Volume, d.Profile.Name,
		joinReasons(why))
}

// joinReasons formats the reasons why nodes cannot keep a replica.
func joinReasons(why []string) string {
	if len(why) == 0 {
		return "there is no other node"
	}
	if n := len(why) - reasonsShown; n > 0 {
		why = append(why[:reasonsShown:reasonsShown], "…")
	}
	return strings.Join(why, "; ")
}

// CheckEnough fails if the cluster cannot keep the replicas that the profile of a dataset requires. It counts the nodes
// that already have a copy, except those whose copy cannot become a replica: see whyNoReplica.
func (s *CopyKeeper) CheckEnough(t *record.Tx, d dataset.Dataset) error {
	if d.Profile.Replicas.Count == 0 {
		return nil
	}
	enough := 0
	var blocked []string
	for _, node := range d.Copies {
		reason, err := whyNoReplica(t, d, node)
		if err != nil {
			return err
		}
		if reason == "" {
			enough++
		} else {
			blocked = append(blocked, reason)
		}
	}
	candidates, why, err := s.replicaPools(t, d)
	if err != nil || len(candidates)+enough >= d.Profile.Replicas.Count {
		return err
	}
	var names []string
	for _, c := range candidates {
		node, err := t.NodeName(c.Node)
		if err != nil {
			return err
		}
		names = append(names, c.QualifiedName(node))
	}
	if err = tooFewError(d, append(blocked, why...)); len(names) > 0 {
		err = fmt.Errorf("%w (%s)", err, FormatPools(names))
	}
	return err
}

// whyNoReplica returns why a node that has a copy of a dataset can have no replica of it; "" if it has one or can have
// one. A condemned copy is no obstacle: once it is destroyed, the node can have a replica.
func whyNoReplica(t *record.Tx, d dataset.Dataset, id uuid.UUID) (string, error) {
	var c dataset.Copy
	var n dataset.Node
	there, err := t.Get(record.CopyKey(id, d.ID), &c)
	if err == nil && there {
		_, err = t.Get(record.NodeKey(id), &n)
	}
	switch {
	case err != nil || !there:
		return "", err
	case c.Kind == dataset.CopySuperseded:
		return fmt.Sprintf("node %s keeps a superseded copy (drover copy ls)", n.Name), nil
	case c.Kind == dataset.CopyLeft && n.Cordoned:
		return fmt.Sprintf("node %s is cordoned (drover node cordon --off %s)", n.Name, n.Name), nil
	}
	return "", nil
}
