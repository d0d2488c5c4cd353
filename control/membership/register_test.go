package membership_test

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/deletion"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// The records of a node are bounded as well.
func TestRegistrationsAreBounded(t *testing.T) {
	e, a := controltest.OneNode(t)
	for range reports.MaxPools/2 - 1 {
		for i := range a.LocalPools {
			a.LocalPools[i].ID = uuid.New()
		}
		a.MustRegister("alpha")
	}
	for range 3 {
		a.LocalPools = append(a.LocalPools, dataset.Pool{ID: uuid.New(), Name: "more"})
	}
	r := api.Registration{Node: dataset.Node{ID: a.ID, Name: "alpha", Incarnation: a.Incarnation}, Pools: a.LocalPools}
	before := e.Dump()
	controltest.Refused(t, e.Register(e.Ctx, r), dataset.ErrInvalid, "alpha", "259 pools", "256 at most")
	r.Pools = []dataset.Pool{{ID: uuid.New(), Name: strings.Repeat("x", reports.MaxRecord)}}
	controltest.Refused(t, e.Register(e.Ctx, r), dataset.ErrInvalid, "bytes (131072 at most)")
	if diff := cmp.Diff(before, e.Dump()); diff != "" {
		t.Error(diff)
	}
}

func TestRegister(t *testing.T) {
	e, a := controltest.OneNode(t)
	cluster := func() uuid.UUID {
		s, err := e.Sync(e.Ctx, a.ID, 0, 0)
		if err != nil || s.Cluster == uuid.Nil {
			t.Fatal(s.Cluster, err)
		}
		return s.Cluster
	}
	id := cluster()
	a.MustCreate("db")
	_, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		return t.Put(record.NodeKey(a.ID), dataset.Node{ID: a.ID, Name: "alpha", Incarnation: a.Incarnation, Cordoned: true, Pools: []uuid.UUID{a.LocalPools[0].ID, a.LocalPools[1].ID}})
	})
	require.NoError(t, err)
	gone := a.LocalPools[1].ID
	a.LocalPools = a.LocalPools[:1]
	a.Incarnation = uuid.New()
	a.MustRegister("alpha2")
	nodes, err := e.NodeList(e.Ctx, "")
	if err != nil || len(nodes) != 1 {
		t.Fatal(nodes, err)
	}
	if n := nodes[0]; n.Name != "alpha2" || !n.Cordoned || len(n.Pools) != 2 || n.Pools[1] != gone || n.Incarnation != a.Incarnation {
		t.Errorf("%+v", n)
	}
	if cluster() != id {
		t.Error("the store has another identity than before")
	}
	a.MustRefusePlan(controltest.Create("db2"), dataset.ErrOffline, "its node is cordoned")
	for _, r := range []api.Registration{
		{}, {Node: dataset.Node{ID: uuid.New()}}, {Node: dataset.Node{ID: uuid.New(), Incarnation: uuid.New()}, Pools: []dataset.Pool{{Name: "x"}}},
		{Node: dataset.Node{ID: uuid.New(), Incarnation: uuid.New()}, Pools: []dataset.Pool{a.LocalPools[0], a.LocalPools[0]}},
	} {
		controltest.Refused(t, e.Register(e.Ctx, r), dataset.ErrInvalid, "register")
	}
}

// Pools are listed by node and name, and not in the order of their UUIDs.
func TestPoolsAreInOrder(t *testing.T) {
	e := controltest.New(t)
	for _, node := range []string{"gamma", "alpha", "delta", "beta"} {
		e.NewAgent(node)
	}
	pools, err := e.Pools(e.Ctx)
	require.NoError(t, err)
	var got []string
	for _, p := range pools {
		got = append(got, p.NodeName+"/"+p.Name)
	}
	if len(got) != 8 || !slices.IsSorted(got) {
		t.Errorf("%v", got)
	}
}

// without registers as an agent that does not have a pool any more, and then reports that the pool is gone.
func without(a *controltest.Agent, name string, pool int) error {
	a.Helper()
	id := a.LocalPools[pool].ID
	all := a.LocalPools
	a.LocalPools = slices.Delete(slices.Clone(all), pool, pool+1)
	a.MustRegister(name)
	reg := api.Registration{Node: dataset.Node{ID: a.ID, Name: name, Incarnation: a.Incarnation}, Pools: a.LocalPools, RemovedPools: []uuid.UUID{id}}
	err := a.Register(a.Ctx, reg)
	if err != nil {
		a.LocalPools = all
		a.MustRegister(name)
	}
	return err
}

// mayLose registers as an agent that asks whether one of its pools may be removed.
func mayLose(a *controltest.Agent, name string, pool int) error {
	return a.Register(a.Ctx, api.Registration{Node: dataset.Node{ID: a.ID, Name: name, Incarnation: a.Incarnation}, Pools: a.LocalPools, RemovedPools: []uuid.UUID{a.LocalPools[pool].ID}})
}

// A pool is removed from the record once nothing in it is on record except condemned datasets, which are removed with
// it. Datasets in other pools of the node, and in pools of the same name on other nodes, stay.
func TestPoolIsGone(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("a"), e.NewAgent("b")
	create := func(name, pool string) dataset.Dataset {
		return *a.MustCommit(a.MustPlan(api.Request{Kind: dataset.OpCreate, Volume: name, Options: map[string]string{"pool": pool}})).Dataset
	}
	db, other := create("db", "plain"), create("other", "fast")
	conflict := func(text string) {
		t.Helper()
		controltest.Refused(t, mayLose(a, "a", 1), dataset.ErrConflict, "pool plain holds "+text)
		controltest.Refused(t, without(a, "a", 1), dataset.ErrConflict, "pool plain holds "+text)
	}
	conflict("volume db: drover volume rm db --dry-run")
	e.MustSubmit(api.Request{Kind: dataset.OpDelete, Volume: "db"})
	a.DoWork()
	conflict("volume db (in the trash, " + db.ID.String()[:8] + "): drover trash purge " + db.ID.String()[:8])
	e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: db.ID.String()})
	a.OK(mayLose(a, "a", 1))
	if s, err := a.Sync(a.Ctx, a.ID, 0, 0); err != nil || len(s.Datasets) != 2 {
		t.Errorf("asking has cleared something: %+v, %v", s.Datasets, err)
	}
	a.OK(without(a, "a", 1))
	if s, err := a.Sync(a.Ctx, a.ID, 0, 0); err != nil || len(s.Datasets) != 1 || s.Datasets[0].ID != other.ID {
		t.Errorf("on record with the node: %+v, %v", s.Datasets, err)
	}
	if v := e.MustVolume("other"); v.ID != other.ID {
		t.Errorf("another one is %+v", v)
	}
	list, err := e.Pools(e.Ctx)
	var names []string
	for _, p := range list {
		names = append(names, p.NodeName+"/"+p.Name)
	}
	if got := strings.Join(names, " "); err != nil || got != "a/fast b/fast b/plain" {
		t.Errorf("there are %s, %v", got, err)
	}
	if err := without(b, "b", 0); err != nil { // nothing in it is on record
		t.Error(err)
	}
	if err := without(a, "a", 0); err == nil || !strings.Contains(err.Error(), "volume other") {
		t.Error(err)
	}
}

// Of several statements of one agent the last one counts, however late an earlier one arrives. The same statement is
// accepted again, and the count starts again with another agent.
func TestLateRegistrationIsNone(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("a")
	say := func(word uint64, pools []dataset.Pool) error {
		return a.Register(a.Ctx, api.Registration{Node: dataset.Node{ID: a.ID, Name: "a", Incarnation: a.Incarnation, RegistrationNumber: word}, Pools: pools, RemovedPools: []uuid.UUID{a.LocalPools[1].ID}})
	}
	for range 2 {
		a.OK(say(2, a.LocalPools[:1]))
	}
	controltest.Refused(t, say(1, a.LocalPools), dataset.ErrStale, "a later request of its agent")
	if list, err := e.Pools(e.Ctx); err != nil || len(list) != 1 {
		t.Errorf("on record: %+v, %v", list, err)
	}
	a.Incarnation = uuid.New()
	a.OK(say(1, a.LocalPools))
}

// mentions sends the same report as says, but only with a heartbeat.
func mentions(a *controltest.Agent, pool uuid.UUID, generation uint64) uint64 {
	a.Helper()
	return says(a, pool, generation, func(g *api.Generations) { g.Transient = true })
}

// says reports the generation of a node's pool, and returns the highest recorded generation. It returns 0 if the
// generation is not recorded.
func says(a *controltest.Agent, pool uuid.UUID, generation uint64, change ...func(*api.Generations)) uint64 {
	a.Helper()
	g := api.Generations{Incarnation: a.Incarnation, Pools: []api.Generation{{Pool: pool, Generation: generation}}}
	for _, c := range change {
		c(&g)
	}
	out, err := a.Generations(a.Ctx, a.ID, g)
	require.NoErrorf(a, err, "generations")
	if len(out.Pools) == 0 {
		return 0
	}
	return out.Pools[0].Generation
}

// The recorded generation of a pool only grows, also if a report arrives late. Only the newest agent of the pool's
// node can report it, and reporting it again writes nothing. It stays with the pool when another node adopts the
// pool, and is removed with the node.
func TestGenerationsOnlyGrow(t *testing.T) {
	e, _ := controltest.NewWithAuthority(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	pool := a.LocalPools[0].ID
	for _, c := range []struct{ says, want uint64 }{{1, 1}, {5, 5}, {3, 5}, {5, 5}, {6, 6}, {5, 6}} {
		if got := says(a, pool, c.says); got != c.want {
			t.Errorf("said %d: got %d, want %d", c.says, got, c.want)
		}
	}
	e.Spy.Counted()
	says(a, pool, 6)
	if _, txns, _ := e.Spy.Counted(); txns != 0 {
		t.Errorf("repeating the report took %d transactions", txns)
	}
	e.Restart()
	if got := says(a, pool, 2); got != 6 {
		t.Errorf("after a restart of control: %d", got)
	}
	if got := says(b, pool, 9); got != 0 {
		t.Errorf("another node's pool: %d", got)
	}
	if got := says(a, uuid.New(), 9); got != 0 {
		t.Errorf("a pool that no node has: %d", got)
	}
	older := a.Incarnation
	a.Incarnation = uuid.New()
	a.MustRegister("alpha")
	_, err := e.Generations(e.Ctx, a.ID, api.Generations{Incarnation: older, Pools: []api.Generation{{Pool: pool, Generation: 9}}})
	controltest.Refused(t, err, dataset.ErrStale, "alpha")
	_, err = e.Generations(e.Ctx, a.ID, api.Generations{Incarnation: a.Incarnation, Pools: make([]api.Generation, reports.MaxPools+1)})
	controltest.Refused(t, err, dataset.ErrInvalid, "257 pools", "256 at most")
	for _, passing := range []bool{false, true} { // a pool with a higher generation could never be accepted anywhere again
		_, err = e.Generations(e.Ctx, a.ID, api.Generations{Incarnation: a.Incarnation, Transient: passing, Pools: []api.Generation{{Pool: pool, Generation: math.MaxUint64}}})
		controltest.Refused(t, err, dataset.ErrInvalid, pool.String(), "generation 18446744073709551615", "maximum 9007199254740992")
	}
	if got := says(a, pool, 2); got != 6 {
		t.Errorf("after the refusal: %d", got)
	}

	b.LocalPools = append(b.LocalPools, a.LocalPools[0])
	b.MustRegister("beta")
	if got := says(b, pool, 4); got != 6 {
		t.Errorf("adopted: %d", got)
	}
	if got := says(a, pool, 9); got != 0 {
		t.Errorf("generation of an adopted pool: %d", got)
	}
	e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error { return deletion.DeleteNode(t, b.ID) }))
	if there, err := record.NewTx(e.Ctx, e.Spy).Get(record.GenerationKey(pool), &record.Generation{}); there || err != nil {
		t.Errorf("the generation of a removed node is on record: %t, %v", there, err)
	}
}

// A generation that was reported with a heartbeat is only in the memory of the service that received it, which
// answers with the higher one of that generation and the one in the store. A lower generation that follows is of a
// pool that was restored from an older backup; the store then has the generation that was known.
func TestGenerationsInPassing(t *testing.T) {
	e, _ := controltest.NewWithAuthority(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	pool := a.LocalPools[0].ID
	stored := func() uint64 {
		t.Helper()
		var g record.Generation
		e.OK(record.NewTx(e.Ctx, e.Spy.Store).Get(record.GenerationKey(pool), &g))
		return g.Highest
	}
	says(a, pool, 3)
	e.Spy.Counted()
	for n := uint64(6); n < 200; n++ {
		g := n / 2 // each one twice, because the second report must write nothing either
		if got := mentions(a, pool, g); got != g {
			t.Fatalf("said %d in passing: got %d", g, got)
		}
	}
	if _, txns, _ := e.Spy.Counted(); txns != 0 || stored() != 3 {
		t.Errorf("%d transactions, the store has %d", txns, stored())
	}
	if got := mentions(b, pool, 200); got != 0 {
		t.Errorf("another node's pool: %d", got)
	}
	if got := mentions(a, pool, 98); got != 99 || stored() != 99 {
		t.Errorf("restored from a backup: %d, and the store has %d", got, stored())
	}
	mentions(a, pool, 101)
	e.Restart()
	if got := mentions(a, pool, 5); got != 99 {
		t.Errorf("after a restart of control: %d", got)
	}
	mentions(a, pool, 102)
	b.LocalPools = append(b.LocalPools, a.LocalPools[0])
	b.MustRegister("beta")
	if got := mentions(b, pool, 100); got != 102 {
		t.Errorf("adopted: %d", got)
	}
}

// A generation that was reported by a node that was removed since does not count any more, as in the store. It is
// forgotten once much is remembered.
func TestGenerationsOfNodesThatAreGone(t *testing.T) {
	e, _ := controltest.NewWithAuthority(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	pool := a.LocalPools[0].ID
	mentions(a, pool, 7)
	e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error { return deletion.DeleteNode(t, a.ID) }))
	b.LocalPools = append(b.LocalPools, a.LocalPools[0])
	b.MustRegister("beta")
	if got := mentions(b, pool, 4); got != 4 {
		t.Errorf("generation of a removed node: %d", got)
	}
	mentions(b, pool, 9)
	c := e.NewAgent("gamma")
	for range 3 * membership.PruneThreshold / reports.MaxPools { // as from nodes that joined and were removed
		list := make([]api.Generation, reports.MaxPools)
		for i := range list {
			list[i].Pool = uuid.New()
		}
		e.GenerationRecorder.Remember(uuid.New(), list)
	}
	mentions(c, c.LocalPools[0].ID, 2)
	if got := e.GenerationRecorder.Remembered(); got != 2 {
		t.Errorf("%d are remembered", got)
	}
	if got := mentions(b, pool, 8); got != 9 {
		t.Errorf("generation of an existing node: %d", got)
	}
}

// Nothing new is created in a quarantined pool, nothing is moved from it, and one event says so.
func TestNothingIsPutIntoAHeldPool(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("mine@gold")
	held := dataset.PoolStatus{ID: a.LocalPools[0].ID, Quarantined: true, Reason: "its generation is 5 and was 7"}
	for range 2 {
		a.ReportPool(held)
	}
	a.MustRefusePlan(controltest.Create("db@gold"), dataset.ErrOffline, "pool fast: it is held: its generation is 5 and was 7")
	e.NewAgent("beta")
	e.MustRefuse(controltest.Move("mine", "beta"), dataset.ErrOffline, "its pool fast is held: its generation is 5 and was 7")
	told := 0
	if err := e.Events(e.Ctx, 0, false, func(ev api.Event) error {
		if ev.Type == "pool.held" && ev.Detail == held.Reason && ev.Node == "alpha" {
			told++
		}
		return nil
	}); err != nil || told != 1 {
		t.Errorf("told %d times, %v", told, err)
	}
	a.ReportPool(dataset.PoolStatus{ID: held.ID, Online: true})
	a.MustCreate("db@gold")
}

// A copy in a quarantined pool never takes over, neither automatically nor if a person asks for it. What is on record
// for such a copy does not keep another copy from taking over: the next freshest does.
func TestNothingGoesOnFromAHeldPool(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	why := "its generation is 5 and was 7"
	l.Beta.ReportPool(dataset.PoolStatus{ID: l.Beta.LocalPools[0].ID, Quarantined: true, Reason: why})
	op := l.MustFailOver()
	if op.Node != l.Gamma.ID {
		t.Errorf("the copy of %s takes over, not that of gamma (%s)", op.Node, l.Gamma.ID)
	}

	l = controltest.NewLostHome(t, 1)
	l.Replicas.EndSession(l.Alpha)
	l.Wait(l.Timing.Session, l.Beta, l.Gamma)
	for _, x := range []*controltest.Agent{l.Beta, l.Gamma} {
		x.ReportPool(dataset.PoolStatus{ID: x.LocalPools[0].ID, Quarantined: true, Reason: why})
	}
	_, err := l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrPending)
	l.Wait(l.Timing.Session+time.Second, l.Beta, l.Gamma)
	_, err = l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrOffline, "node beta has its copy in a pool that is held: "+why, "node gamma", "no other node has a complete copy")

	l.MustRefuse(controltest.ForcedMove("db", "beta", "alpha"), dataset.ErrOffline, "move of volume db: node beta has its copy in a pool that is held: "+why)
	l.Gamma.ReportPool(dataset.PoolStatus{ID: l.Gamma.LocalPools[0].ID, Online: true})
	if out := l.MustSubmit(controltest.ForcedMove("db", "gamma", "alpha")); out.Operation.Node != l.Gamma.ID {
		t.Errorf("%+v", out.Operation)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
