package membership_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// TestFactsAreWrittenWhenTheyDifferAndOnceAMinute counts the writes to the store: a node whose facts do not change
// writes nothing.
func TestFactsAreWrittenWhenTheyDifferAndOnceAMinute(t *testing.T) {
	e, a := controltest.OneNode(t)
	txns := func() int { return e.Spy.Committed() }
	before := txns()
	first := a.ReportFacts(nil)
	if txns() != before+1 || first.Node != a.ID || !first.Taken.Equal(controltest.Start) {
		t.Fatalf("%d transactions, %+v", txns()-before, first)
	}
	for range 100 {
		e.Clock.Advance(10 * time.Second)
		if on := a.ReportFacts(func(f *dataset.Facts) { f.Load1, f.MemoryFree = 21, 48<<30 }); on.Load1 != 20 || !on.Taken.Equal(controltest.Start) {
			t.Fatalf("a little more load was written: %+v", on)
		}
	}
	if txns() != before+1 {
		t.Fatalf("a steady node wrote %d times", txns()-before-1)
	}
	high := func(load float64) func(*dataset.Facts) { return func(f *dataset.Facts) { f.Load1 = load } }
	if on := a.ReportFacts(high(30)); on.Load1 != 30 {
		t.Errorf("half as much again was not written: %+v", on)
	}
	for range 5 {
		e.Clock.Advance(10 * time.Second)
		if on := a.ReportFacts(high(60)); on.Load1 != 30 {
			t.Errorf("written twice in a minute")
		}
	}
	e.Clock.Advance(10 * time.Second)
	if on := a.ReportFacts(high(60)); on.Load1 != 60 {
		t.Errorf("not written a minute later: %+v", on)
	}
	if txns() != before+3 {
		t.Errorf("%d transactions", txns()-before)
	}
	e.Clock.Set(controltest.Start.Add(-24 * time.Hour))
	if on := a.ReportFacts(high(5)); on.Load1 != 5 {
		t.Errorf("a clock that was set back keeps facts: %+v", on)
	}

	_, err := e.Facts(e.Ctx, a.ID, api.FactsReport{Incarnation: uuid.New()})
	controltest.Refused(t, err, dataset.ErrStale, "incarnation")
	_, err = e.Facts(e.Ctx, uuid.New(), api.FactsReport{Incarnation: a.Incarnation})
	controltest.Refused(t, err, dataset.ErrStale, "is not registered")
}

func nodeNames(nodes []api.Node) (out string) {
	for _, n := range nodes {
		out += n.Name + " "
	}
	return strings.TrimSpace(out)
}

func TestNodesAreFilteredByFacts(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	e.NewAgent("gamma") // reports no facts
	a.ReportFacts(func(f *dataset.Facts) { f.Load10 = 34; f.Pools[1].Free = 5 << 30 })
	b.ReportFacts(func(f *dataset.Facts) { f.Architecture = "aarch64" })
	for filter, want := range map[string]map[string]bool{
		"":                           {"alpha": true, "beta": true, "gamma": true},
		`load_10 < 30`:               {"beta": true},
		`architecture != "aarch64"`:  {"alpha": true},
		`pool.free < "10GiB"`:        {"alpha": true},
		`not (pool.free < "10GiB")`:  {"alpha": true, "beta": true}, // of any pool
		`node in ["alpha", "gamma"]`: {"alpha": true},
		`load_1 > 99`:                {},
	} {
		nodes, err := e.NodeList(e.Ctx, filter)
		if err != nil || len(nodes) != len(want) {
			t.Errorf("%s: %s, %v", filter, nodeNames(nodes), err)
			continue
		}
		for _, n := range nodes {
			if !want[n.Name] {
				t.Errorf("%s: %s", filter, n.Name)
			}
			if (n.Facts == nil) != (n.Name == "gamma") {
				t.Errorf("facts of %s: %+v", n.Name, n.Facts)
			}
		}
	}
	_, err := e.NodeList(e.Ctx, "lode_10 < 3")
	controltest.Refused(t, err, dataset.ErrInvalid, `filter "lode_10 < 3": unknown fact "lode_10", did you mean load_10?`)
}

func TestCordon(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	_, err := e.Cordon(e.Ctx, uuid.New(), api.Cordoned{Cordoned: true})
	controltest.Refused(t, err, dataset.ErrNotFound, "no such node")
	for range 2 {
		if n, err := e.Cordon(e.Ctx, a.ID, api.Cordoned{Cordoned: true}); err != nil || !n.Cordoned || n.Name != "alpha" {
			t.Fatal(n, err)
		}
	}
	if op := a.MustPlan(controltest.Create("db")); op.Node != b.ID {
		t.Error("a cordoned node got something new")
	}
	before := e.Spy.Committed()
	if _, err := e.Cordon(e.Ctx, a.ID, api.Cordoned{Cordoned: true}); err != nil || e.Spy.Committed() != before {
		t.Errorf("what is so already was written again, %v", err)
	}
	a.MustRegister("alpha")
	if op := a.MustPlan(controltest.Create("db")); op.Node != b.ID {
		t.Error("a node that registers again is not cordoned any more")
	}
	e.OK(e.Cordon(e.Ctx, a.ID, api.Cordoned{Cordoned: false}))
	if op := a.MustPlan(controltest.Create("db")); op.Node != a.ID {
		t.Error("the node stays cordoned")
	}
}

// A label that was set live wins over the one of drover.yaml, survives registrations, and gives way to the one of
// drover.yaml when it is removed.
func TestLabelNode(t *testing.T) {
	e, a := controltest.OneNode(t)
	register := func(labels map[string]string) {
		t.Helper()
		n := dataset.Node{ID: a.ID, Name: "alpha", Incarnation: a.Incarnation, Labels: labels}
		n.LiveLabels = map[string]string{"forged": "1"} // an agent cannot set them
		e.OK(e.Register(e.Ctx, api.Registration{Node: n, Pools: a.LocalPools}))
	}
	labels := func(want map[string]string) {
		t.Helper()
		nodes, err := e.NodeList(e.Ctx, "")
		if err != nil || !maps.Equal(nodes[0].Labels, want) {
			t.Errorf("%v, %v; want %v", nodes[0].Labels, err, want)
		}
	}
	change := func(set map[string]string, remove ...string) error {
		_, err := e.LabelNode(e.Ctx, a.ID, dataset.LabelChange{Set: set, Remove: remove})
		return err
	}
	register(map[string]string{"rack": "r1", "disk": "ssd"})
	labels(map[string]string{"rack": "r1", "disk": "ssd"})
	for range 2 { // idempotent
		e.OK(change(map[string]string{"rack": "r2", "spare": "yes"}))
		labels(map[string]string{"rack": "r2", "disk": "ssd", "spare": "yes"})
	}
	register(map[string]string{"rack": "r3"})
	labels(map[string]string{"rack": "r2", "spare": "yes"})
	e.OK(change(nil, "rack"))
	labels(map[string]string{"rack": "r3", "spare": "yes"})
	controltest.Refused(t, change(nil, "rack"), dataset.ErrInvalid, "comes from drover.yaml", "drover node label alpha rack=VALUE")
	controltest.Refused(t, change(nil, "sparse"), dataset.ErrNotFound, `node alpha has no label "sparse"`, "spare")
	controltest.Refused(t, change(nil), dataset.ErrInvalid, "no label to change")
	controltest.Refused(t, change(map[string]string{"-": "1"}), dataset.ErrInvalid, "bad label key")
	controltest.Refused(t, change(map[string]string{"spare": "1"}, "spare"), dataset.ErrInvalid, "both set and removed")
	e.OK(change(nil, "spare"))
	labels(map[string]string{"rack": "r3"})
	register(map[string]string{"rack": "r4"})
	labels(map[string]string{"rack": "r4"})
}

// shelf is a catalog.
type shelf struct {
	mu    sync.Mutex
	shows map[string]store.Service // by address
	looks []bool
	err   error
}

func (s *shelf) Publish(_ context.Context, all []store.Service, look bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks = append(s.looks, look)
	if s.err != nil {
		return s.err
	}
	s.shows = map[string]store.Service{}
	for _, v := range all {
		s.shows[v.Address] = v
	}
	return nil
}

func (s *shelf) Withdraw(_ context.Context, _, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.shows, id)
	return s.err
}

func (s *shelf) has() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.shows))
}

// The catalog shows the running replicas and the nodes on record: whether each is reachable and, if the catalog asks
// for it, its details. It does not show what was shut down in order.
func TestMembersAreShown(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	s, shelf := x.Services[0], &shelf{}
	s.Members.Catalog, s.Members.Replica = shelf, membership.Replica{Name: "c1", Address: "c1:9470"}
	x.TakePart(s)
	show := func() {
		t.Helper()
		require.NoError(t, s.Members.PublishMembers(t.Context(), new(bool), false))
	}
	node := func(name string) api.Registration {
		r := controltest.Registration(uuid.New(), "boot")
		r.Node.Name, r.Node.Address, r.Node.Version, r.Node.Labels = name, name+":9471", "v1", map[string]string{"rack": "r1"}
		require.NoError(t, s.Members.Register(t.Context(), r))
		return r
	}
	a, b := node("a"), node("b")
	if err := s.Members.Register(t.Context(), controltest.Registration(uuid.New(), "boot")); err != nil { // has no address
		t.Fatal(err)
	}
	told := api.FactsReport{Incarnation: a.Node.Incarnation, Facts: dataset.Facts{Load10: 0.25, Pools: []dataset.PoolFacts{{Name: "fast", Backend: "loop", Online: true}}}}
	_, err := s.Members.Facts(t.Context(), a.Node.ID, told)
	require.NoError(t, err)
	show()
	want := store.Service{Kind: "agent", ID: a.Node.ID.String(), Address: "a:9471", Meta: map[string]string{"drover_node": "a", "drover_version": "v1"}, Alive: true}
	if diff := cmp.Diff(want, shelf.shows["a:9471"]); diff != "" || !slices.Equal(shelf.has(), []string{"a:9471", "b:9471", "c1:9470"}) {
		t.Error(shelf.has(), diff)
	}
	before := x.Txns()
	show()
	if x.Txns() != before {
		t.Error("it costs a transaction of the store")
	}
	s.Members.PublishFacts = true
	show()
	if got := shelf.shows["a:9471"]; got.Meta["drover_load_10"] != "0.25" || !slices.Equal(got.Tags, []string{"backend.loop", "label.rack.r1", "pool.fast"}) {
		t.Errorf("%+v", got)
	}

	// One replica is stopped in order, and the other is not.
	require.NoError(t, s.Members.Heartbeat(t.Context(), a.Node.ID, api.Heartbeat{Incarnation: a.Node.Incarnation, Stopping: true}))
	show()
	if !slices.Equal(shelf.has(), []string{"b:9471", "c1:9470"}) {
		t.Error("what has left is shown:", shelf.has())
	}
	if _, alive, err := membership.LivingSession(record.NewTx(t.Context(), x.Store), a.Node.ID); err != nil || !alive {
		t.Error("its session went before its time:", err)
	}
	x.Clock.Advance(21 * time.Second)
	x.AwaitEnd(record.LiveNodeKey(a.Node.ID))
	x.AwaitEnd(record.LiveNodeKey(b.Node.ID))
	x.TakePart(s)
	require.NoError(t, s.Members.RecordUnreachable(t.Context()))
	show()
	if got := shelf.shows["b:9471"]; got.Alive || got.Note != "its agent has not been heard from since "+x.Clock.Now().Format(time.RFC3339) || len(shelf.has()) != 2 {
		t.Errorf("%v: %+v", shelf.has(), got)
	}
	a.Node.Incarnation = uuid.New()
	require.NoError(t, s.Members.Register(t.Context(), a))
	show()
	if got := shelf.shows["a:9471"]; !got.Alive {
		t.Errorf("it is back: %v", shelf.has())
	}
	_, err = s.RemoveNode(t.Context(), "b", api.NodeRemoval{})
	require.NoError(t, err)
	show()
	if !slices.Equal(shelf.has(), []string{"a:9471", "c1:9470"}) {
		t.Error(shelf.has())
	}
}

// Without the permission, the catalog is left alone until the next full round, and all other work continues.
func TestCatalogThatMayNotBeWritten(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	s, shelf := x.Services[0], &shelf{err: dataset.Errorf(dataset.ErrForbidden, "give its policy this")}
	s.Members.Catalog, s.Members.Replica = shelf, membership.Replica{Name: "c1", Address: "c1:9470"}
	var failed []string
	s.Ledger.Failed = func(what string, err error) { failed = append(failed, what+": "+err.Error()) }
	x.TakePart(s)
	if mine, err := s.Members.AcquireHousekeeping(t.Context()); err != nil || !mine {
		t.Fatal(mine, err)
	}
	h := s.Housekeeper.NewMemory()
	for range 4 {
		s.Housekeeper.Round(t.Context(), h, x.Clock.Now())
	}
	if len(failed) != 1 || !strings.Contains(failed[0], "in the catalog: give its policy this") || len(shelf.looks) != 1 {
		t.Error(failed, shelf.looks)
	}
	shelf.err = nil
	x.Clock.Advance(housekeeping.FullInterval)
	x.TakePart(s)
	if mine, err := s.Members.AcquireHousekeeping(t.Context()); err != nil || !mine {
		t.Fatal(mine, err)
	}
	s.Housekeeper.Round(t.Context(), h, x.Clock.Now())
	s.Housekeeper.Round(t.Context(), h, x.Clock.Now())
	if !slices.Equal(shelf.looks, []bool{true, true, false}) || !slices.Equal(shelf.has(), []string{"c1:9470"}) {
		t.Error(shelf.looks, shelf.has())
	}
	if err := s.Members.Withdraw(t.Context()); err != nil || len(shelf.has()) != 1 {
		t.Error("while it lives:", err)
	}
	require.NoError(t, s.Ledger.Store.End(t.Context(), s.Members.ReplicaSession()))
	if err := s.Members.Withdraw(t.Context()); err != nil || len(shelf.has()) != 0 {
		t.Error("the last one:", shelf.has(), err)
	}
}
