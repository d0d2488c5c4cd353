package membership_test

import (
	"math"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/deletion"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
)

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
	if err != nil {
		a.Fatalf("generations: %v", err)
	}
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
	if _, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error { return deletion.DeleteNode(t, b.ID) }); err != nil {
		t.Fatal(err)
	}
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
		if _, err := record.NewTx(e.Ctx, e.Spy.Store).Get(record.GenerationKey(pool), &g); err != nil {
			t.Fatal(err)
		}
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
	if _, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error { return deletion.DeleteNode(t, a.ID) }); err != nil {
		t.Fatal(err)
	}
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
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("mine@gold")
	held := dataset.PoolStatus{ID: a.LocalPools[0].ID, Quarantined: true, Reason: "its generation is 5 and was 7"}
	for range 2 {
		a.ReportPool(held)
	}
	a.MustRefusePlan(controltest.Create("db@gold"), dataset.ErrOffline, "pool fast: it is held: its generation is 5 and was 7")
	e.NewAgent("beta")
	_, err := e.Submit(e.Ctx, controltest.Move("mine", "beta"))
	controltest.Refused(t, err, dataset.ErrOffline, "its pool fast is held: its generation is 5 and was 7")
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

	_, err = l.Submit(l.Ctx, controltest.ForcedMove("db", "beta", "alpha"))
	controltest.Refused(t, err, dataset.ErrOffline, "move of volume db: node beta has its copy in a pool that is held: "+why)
	l.Gamma.ReportPool(dataset.PoolStatus{ID: l.Gamma.LocalPools[0].ID, Online: true})
	if out := l.MustSubmit(controltest.ForcedMove("db", "gamma", "alpha")); out.Operation.Node != l.Gamma.ID {
		t.Errorf("%+v", out.Operation)
	}
}
