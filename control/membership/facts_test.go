package membership_test

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// TestFactsAreWrittenWhenTheyDifferAndOnceAMinute counts the writes to the store: a node whose facts do not change
// writes nothing.
func TestFactsAreWrittenWhenTheyDifferAndOnceAMinute(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
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
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
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
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
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
	if _, err := e.Cordon(e.Ctx, a.ID, api.Cordoned{Cordoned: false}); err != nil {
		t.Fatal(err)
	}
	if op := a.MustPlan(controltest.Create("db")); op.Node != a.ID {
		t.Error("the node stays cordoned")
	}
}

// A label that was set live wins over the one of drover.yaml, survives registrations, and gives way to the one of
// drover.yaml when it is removed.
func TestLabelNode(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	register := func(labels map[string]string) {
		t.Helper()
		n := dataset.Node{ID: a.ID, Name: "alpha", Incarnation: a.Incarnation, Labels: labels}
		n.LiveLabels = map[string]string{"forged": "1"} // an agent cannot set them
		if err := e.Register(e.Ctx, api.Registration{Node: n, Pools: a.LocalPools}); err != nil {
			t.Fatal(err)
		}
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
		if err := change(map[string]string{"rack": "r2", "spare": "yes"}); err != nil {
			t.Fatal(err)
		}
		labels(map[string]string{"rack": "r2", "disk": "ssd", "spare": "yes"})
	}
	register(map[string]string{"rack": "r3"})
	labels(map[string]string{"rack": "r2", "spare": "yes"})
	if err := change(nil, "rack"); err != nil {
		t.Fatal(err)
	}
	labels(map[string]string{"rack": "r3", "spare": "yes"})
	controltest.Refused(t, change(nil, "rack"), dataset.ErrInvalid, "comes from drover.yaml", "drover node label alpha rack=VALUE")
	controltest.Refused(t, change(nil, "sparse"), dataset.ErrNotFound, `node alpha has no label "sparse"`, "spare")
	controltest.Refused(t, change(nil), dataset.ErrInvalid, "no label to change")
	controltest.Refused(t, change(map[string]string{"-": "1"}), dataset.ErrInvalid, "bad label key")
	controltest.Refused(t, change(map[string]string{"spare": "1"}, "spare"), dataset.ErrInvalid, "both set and removed")
	if err := change(nil, "spare"); err != nil {
		t.Fatal(err)
	}
	labels(map[string]string{"rack": "r3"})
	register(map[string]string{"rack": "r4"})
	labels(map[string]string{"rack": "r4"})
}
