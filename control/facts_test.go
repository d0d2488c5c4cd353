package control

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// facts are those of a node with its pools, a hundredth as free as the factor says.
func (a *agent) facts(change func(*dataset.Facts)) dataset.Facts {
	f := dataset.Facts{Architecture: "x86_64", Kernel: "6.12.1", OS: "debian", CPUs: 4, MemoryTotal: 100 << 30, MemoryFree: 50 << 30, Load1: 20, Load10: 20, Load15: 20}
	for _, p := range a.pools {
		f.Pools = append(f.Pools, dataset.PoolFacts{ID: p.ID, Name: p.Name, Backend: p.Backend, Online: true, Size: 1 << 40, Free: 1 << 39})
	}
	if change != nil {
		change(&f)
	}
	return f
}

// tells expects that facts are taken in, and returns those on record.
func (a *agent) tells(change func(*dataset.Facts)) dataset.Facts {
	a.Helper()
	on, err := a.Facts(a.ctx, a.id, api.FactsReport{Incarnation: a.incarnation, Facts: a.facts(change)})
	if err != nil {
		a.Fatalf("facts: %v", err)
	}
	return on
}

// TestFactsAreWrittenWhenTheyDifferAndOnceAMinute counts what the store is given: a
// node whose facts stay the same writes nothing.
func TestFactsAreWrittenWhenTheyDifferAndOnceAMinute(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	txns := func() int { return e.spy.committed() }
	before := txns()
	first := a.tells(nil)
	if txns() != before+1 || first.Node != a.id || !first.Taken.Equal(someday) {
		t.Fatalf("%d transactions, %+v", txns()-before, first)
	}
	for range 100 {
		e.clock.Advance(10 * time.Second)
		if on := a.tells(func(f *dataset.Facts) { f.Load1, f.MemoryFree = 21, 48<<30 }); on.Load1 != 20 || !on.Taken.Equal(someday) {
			t.Fatalf("a little more load was written: %+v", on)
		}
	}
	if txns() != before+1 {
		t.Fatalf("a steady node wrote %d times", txns()-before-1)
	}
	high := func(load float64) func(*dataset.Facts) { return func(f *dataset.Facts) { f.Load1 = load } }
	if on := a.tells(high(30)); on.Load1 != 30 {
		t.Errorf("half as much again was not written: %+v", on)
	}
	for range 5 {
		e.clock.Advance(10 * time.Second)
		if on := a.tells(high(60)); on.Load1 != 30 {
			t.Errorf("written twice in a minute")
		}
	}
	e.clock.Advance(10 * time.Second)
	if on := a.tells(high(60)); on.Load1 != 60 {
		t.Errorf("not written a minute later: %+v", on)
	}
	if txns() != before+3 {
		t.Errorf("%d transactions", txns()-before)
	}
	e.clock.Set(someday.Add(-24 * time.Hour))
	if on := a.tells(high(5)); on.Load1 != 5 {
		t.Errorf("a clock that was set back keeps facts: %+v", on)
	}

	_, err := e.Facts(e.ctx, a.id, api.FactsReport{Incarnation: uuid.New()})
	refused(t, err, dataset.ErrStale, "incarnation")
	_, err = e.Facts(e.ctx, uuid.New(), api.FactsReport{Incarnation: a.incarnation})
	refused(t, err, dataset.ErrStale, "is not registered")
}

func nodeNames(nodes []api.Node) (out string) {
	for _, n := range nodes {
		out += n.Name + " "
	}
	return strings.TrimSpace(out)
}

func TestNodesAreFilteredByFacts(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	e.agent("gamma") // tells no facts
	a.tells(func(f *dataset.Facts) { f.Load10 = 34; f.Pools[1].Free = 5 << 30 })
	b.tells(func(f *dataset.Facts) { f.Architecture = "aarch64" })
	for filter, want := range map[string]map[string]bool{
		"":                           {"alpha": true, "beta": true, "gamma": true},
		`load_10 < 30`:               {"beta": true},
		`architecture != "aarch64"`:  {"alpha": true},
		`pool.free < "10GiB"`:        {"alpha": true},
		`not (pool.free < "10GiB")`:  {"alpha": true, "beta": true}, // of any pool
		`node in ["alpha", "gamma"]`: {"alpha": true},
		`load_1 > 99`:                {},
	} {
		nodes, err := e.NodeList(e.ctx, filter)
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
	_, err := e.NodeList(e.ctx, "lode_10 < 3")
	refused(t, err, dataset.ErrInvalid, `filter "lode_10 < 3": unknown fact "lode_10", did you mean load_10?`)
}

func TestCordon(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	_, err := e.Cordon(e.ctx, uuid.New(), api.Cordoned{Cordoned: true})
	refused(t, err, dataset.ErrNotFound, "no such node")
	for range 2 {
		if n, err := e.Cordon(e.ctx, a.id, api.Cordoned{Cordoned: true}); err != nil || !n.Cordoned || n.Name != "alpha" {
			t.Fatal(n, err)
		}
	}
	if op := a.plan(create("db")); op.Node != b.id {
		t.Error("a cordoned node got something new")
	}
	before := e.spy.committed()
	if _, err := e.Cordon(e.ctx, a.id, api.Cordoned{Cordoned: true}); err != nil || e.spy.committed() != before {
		t.Errorf("what is so already was written again, %v", err)
	}
	a.register("alpha")
	if op := a.plan(create("db")); op.Node != b.id {
		t.Error("a node that registers again is not cordoned any more")
	}
	if _, err := e.Cordon(e.ctx, a.id, api.Cordoned{Cordoned: false}); err != nil {
		t.Fatal(err)
	}
	if op := a.plan(create("db")); op.Node != a.id {
		t.Error("the node stays cordoned")
	}
}

// committed is how many transactions the store was given.
func (s *spy) committed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.txns
}
