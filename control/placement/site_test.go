package placement_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/control/controltest/expect"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/dataset"
)

// The error is ErrOffline if the volume could be placed once something is reachable again, and ErrUnsupported if it
// never could.
func TestChoose(t *testing.T) {
	pool := func(name string, can dataset.Capabilities, st *dataset.PoolStatus) placement.Candidate {
		return placement.Candidate{Pool: dataset.Pool{ID: uuid.New(), Name: name, Backend: "loop", Capabilities: can}, Status: st}
	}
	on, off := &dataset.PoolStatus{Online: true}, &dataset.PoolStatus{Reason: "its disk is absent"}
	cordoned := pool("fenced", loopCan, on)
	cordoned.Cordoned = true
	gold := dataset.Profile{Name: "gold", Size: 1}
	for _, c := range []struct {
		name  string
		cands []placement.Candidate
		want  string
		kind  *dataset.Kind
		parts []string
	}{
		{"the first that fits", []placement.Candidate{pool("a", dirCan, on), pool("b", loopCan, on), pool("c", loopCan, on)}, "b", nil, nil},
		{"not respond", []placement.Candidate{pool("a", loopCan, nil)}, "a", nil, nil},
		{"the first is away", []placement.Candidate{pool("a", loopCan, off), pool("b", loopCan, on)}, "b", nil, nil},
		{"none", nil, "", dataset.ErrOffline, []string{"volume db: there is no pool", "pool create"}},
		{"none fits", []placement.Candidate{pool("a", dirCan, on), pool("b", dirCan, off)}, "", dataset.ErrUnsupported, []string{"no pool can satisfy profile gold", ": pools a, b: it cannot enforce a size"}},
		{"one would fit", []placement.Candidate{pool("a", dirCan, on), pool("b", loopCan, off)}, "", dataset.ErrOffline, []string{"pool a: it cannot enforce", "pool b: it is offline: its disk is absent"}},
		{"cordoned", []placement.Candidate{cordoned}, "", dataset.ErrOffline, []string{"its node is cordoned (drover node cordon --off"}},
	} {
		got, err := placement.Choose(c.cands, placement.Requirement{Subject: "volume db", Profile: gold})
		if got.Name != c.want || dataset.KindOf(err) != c.kind {
			t.Errorf("%s: %q, %v", c.name, got.Name, err)
		}
		if err != nil {
			expect.Refusal(t, err, c.kind, c.parts...)
		}
	}
}

// An error about many pools is short: it has each reason once, with the first names and the number of the others.
func TestADozenPoolsGiveAShortError(t *testing.T) {
	st := placement.Site{Node: dataset.Node{Name: "alpha"}}
	for i := range 12 {
		c := placement.Candidate{Pool: dataset.Pool{Name: fmt.Sprintf("pool-%d", i), Backend: "dir", Capabilities: dirCan, MissingFeatures: []string{"sizes need project quotas (unmount its filesystem, tune2fs -O project,quota /dev/sdb, mount it with -o prjquota)"}}}
		if i%2 == 1 {
			c.Cordoned, c.Capabilities = true, loopCan
		}
		st.Pools = append(st.Pools, c)
	}
	o := placement.Requirement{Subject: "volume db", Profile: dataset.Profile{Name: "gold", Size: 5}}
	for _, sites := range [][]placement.Site{{st}, {st, st, st, st, st}} {
		err := placement.NoPoolError(sites, o)
		expect.Refusal(t, err, dataset.ErrOffline, "volume db: no pool can satisfy profile gold: ", "pools pool-0, pool-2, pool-4 and 3 more: it cannot enforce a size: on its node sizes need", "tune2fs", "pools pool-1, pool-3, pool-5 and 3 more: its node is cordoned")
		if len(err.Error()) > 400 {
			t.Errorf("%d bytes: %v", len(err.Error()), err)
		}
	}
	for i := range st.Pools { // each with a different reason
		st.Pools[i].Status, st.Pools[i].Cordoned, st.Pools[i].Capabilities = &dataset.PoolStatus{Reason: fmt.Sprintf("%d %s", i, strings.Repeat("y", 60))}, false, loopCan
	}
	err := placement.NoPoolError([]placement.Site{st}, o)
	expect.Refusal(t, err, dataset.ErrOffline, "pool pool-0: it is offline: 0 y", "pool pool-1: it is offline: 1 y", "; and 9 more pools")
	if len(err.Error()) > 400 {
		t.Errorf("%d bytes: %v", len(err.Error()), err)
	}
}

// TestAThousandNodesGiveAShortError: the error names the first few nodes, and how many more there are.
func TestAThousandNodesGiveAShortError(t *testing.T) {
	sites := make([]placement.Site, 1000)
	for i := range sites {
		sites[i] = placement.Site{Node: dataset.Node{Name: fmt.Sprintf("node-%d", i)}, Facts: &dataset.Facts{Load10: float64(i)}, Pools: []placement.Candidate{{Pool: dataset.Pool{Name: "default"}}}}
	}
	o := placement.Requirement{Subject: "volume db", Profile: dataset.Profile{Name: "busy", Placement: "load_10 < 0"}}
	var err error
	if o.Placement, err = placement.ParsePlacement(o.Profile); err != nil {
		t.Fatal(err)
	}
	expect.Refusal(t, placement.NoPoolError(sites, o), dataset.ErrUnsupported, "node node-5: pool default: load_10 is 5, not < 0; and 994 more nodes")
}

// TestSpreadGoesByFreeSpace: a pool with more free space is chosen more often, and always the same one for the same
// dataset. If a pool goes away, only its own datasets are placed elsewhere.
func TestSpreadGoesByFreeSpace(t *testing.T) {
	fit := []placement.Candidate{
		{Pool: dataset.Pool{ID: uuid.UUID{1}, Name: "a"}, Status: &dataset.PoolStatus{Free: 100 << 30}},
		{Pool: dataset.Pool{ID: uuid.UUID{2}, Name: "b"}, Status: &dataset.PoolStatus{Free: 300 << 30}},
		{Pool: dataset.Pool{ID: uuid.UUID{3}, Name: "c"}, Status: &dataset.PoolStatus{Free: 600 << 30}},
		{Pool: dataset.Pool{ID: uuid.UUID{4}, Name: "full"}, Status: &dataset.PoolStatus{}},
		{Pool: dataset.Pool{ID: uuid.UUID{5}, Name: "unheard"}},
	}
	got := map[string]int{}
	for i := range 10000 {
		id := uuid.NewSHA1(uuid.Nil, fmt.Appendf(nil, "%d", i))
		got[placement.Spread(fit, id).Name]++
	}
	for name, want := range map[string]int{"a": 1000, "b": 3000, "c": 6000, "full": 0, "unheard": 0} {
		if d := got[name] - want; d > 200 || d < -200 {
			t.Errorf("%s: %d of 10,000, want about %d", name, got[name], want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		id := uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		gone := rapid.IntRange(0, len(fit)-1).Draw(t, "gone")
		was := placement.Spread(fit, id)
		left := append(append([]placement.Candidate{}, fit[:gone]...), fit[gone+1:]...)
		if is := placement.Spread(left, id); was.ID != fit[gone].ID && is.ID != was.ID {
			t.Fatalf("%s was removed, and a dataset of %s goes to %s", fit[gone].Name, was.Name, is.Name)
		}
	})
}
