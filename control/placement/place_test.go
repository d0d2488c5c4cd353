package placement_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// where adds a profile with a placement expression.
func where(e *controltest.Control, name, expression string, change ...func(*dataset.Profile)) {
	p := dataset.Profile{Name: name, Revision: "r", Placement: expression, OnDelete: dataset.OnDelete{Mode: dataset.DeletePurge}}
	for _, f := range change {
		f(&p)
	}
	e.ProfileSet.ByName[name] = p
}

// TestPlacementPicksANodeThatFits (A9): the requesting node is used if it fits, otherwise another one. The error says
// for each node which comparison failed, with the value.
func TestPlacementPicksANodeThatFits(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	where(e, "busy", `architecture == "x86_64" and load_10 < 20`)
	where(e, "roomy", `pool.free > "900GiB"`)

	a.MustRefusePlan(controltest.Create("db@busy"), dataset.ErrOffline, "nodes alpha, beta: its facts are unknown yet")
	a.ReportFacts(func(f *dataset.Facts) { f.Load10 = 34 })
	a.MustRefusePlan(controltest.Create("db@busy"), dataset.ErrOffline,
		"volume db: no pool can satisfy profile busy: node alpha: load_10 is 34, not < 20; node beta: its facts are unknown yet")
	b.ReportFacts(func(f *dataset.Facts) { f.Load10 = 3; f.Pools[1].Free = 1000 << 30 })
	for range 20 {
		if op := a.MustPlan(controltest.Create("db@busy")); op.Node != b.ID || op.DatasetRecord.Home != b.ID || op.DatasetRecord.Pool != b.LocalPools[0].ID {
			t.Fatalf("%+v", op)
		}
	}
	if op := a.MustPlan(controltest.Create("db@roomy")); op.DatasetRecord.Pool != b.LocalPools[1].ID {
		t.Errorf("the pool with enough space is not used: %+v", op.DatasetRecord)
	}
	if op := b.MustPlan(controltest.Create("db@busy")); op.Node != b.ID {
		t.Error("the requesting node fits, and is not used")
	}

	// The profile of a volume is frozen: another placement in the file changes no existing volume.
	d := b.MustCreate("mine@busy")
	where(e, "busy", `load_10 > 1000`)
	if got := e.MustVolume("mine"); got.Profile.Placement != d.Profile.Placement || d.Profile.Placement != `architecture == "x86_64" and load_10 < 20` {
		t.Errorf("frozen: %q", got.Profile.Placement)
	}
	b.MustRefusePlan(controltest.Create("db@busy"), dataset.ErrUnsupported, "node beta: load_10 is 3, not > 1000; node alpha: load_10 is 34, not > 1000")

	where(e, "wrong", `lode == 3`)
	b.MustRefusePlan(controltest.Create("db@wrong"), dataset.ErrInvalid, `placement of profile wrong: unknown fact "lode"`)
}

func TestEachNodeHasItsReason(t *testing.T) {
	e := controltest.New(t)
	a, b, c, d := e.NewAgent("alpha"), e.NewAgent("beta"), e.NewAgent("gamma"), e.NewAgent("delta")
	where(e, "gold2", `load_10 < 25`, func(p *dataset.Profile) { p.Size = 5 })
	for _, x := range []*controltest.Agent{a, c, d} {
		x.ReportFacts(nil)
	}
	b.ReportFacts(func(f *dataset.Facts) { f.Load10 = 40 })
	if _, err := e.Cordon(e.Ctx, a.ID, api.Cordoned{Cordoned: true}); err != nil {
		t.Fatal(err)
	}
	c.ReportFacts(nil)
	d.LocalPools = d.LocalPools[1:]
	if _, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		return t.Put(record.NodeKey(d.ID), dataset.Node{ID: d.ID, Name: "delta", Incarnation: d.Incarnation, Pools: []uuid.UUID{d.LocalPools[0].ID}})
	}); err != nil {
		t.Fatal(err)
	}
	if op := a.MustPlan(controltest.Create("db@gold2")); op.Node != c.ID {
		t.Errorf("only gamma fits: %+v", op.DatasetRecord)
	}
	where(e, "gold2", `load_10 < 25 and node != "gamma"`, func(p *dataset.Profile) { p.Size = 5 })
	a.MustRefusePlan(controltest.Create("db@gold2"), dataset.ErrOffline,
		"node alpha: pool fast: its node is cordoned, pool plain: it cannot enforce a size",
		"; node beta: pool fast: load_10 is 40, not < 25, pool plain: it cannot enforce a size",
		"; node delta: pool plain: it cannot enforce a size",
		`; node gamma: pool fast: node is "gamma", not != "gamma", pool plain: it cannot enforce a size`)
}

// TestChosenNode: option node restricts the placement to one node, and no other node is used instead.
func TestChosenNode(t *testing.T) {
	e := controltest.New(t)
	a, b, g := e.NewAgent("alpha"), e.NewAgent("beta"), e.NewAgent("gamma")
	for _, ref := range []string{"beta", b.ID.String()[:8]} {
		op := a.MustPlan(controltest.Create("db@gold", "node="+ref))
		if op.Node != b.ID || op.DatasetRecord.Home != b.ID || op.DatasetRecord.Pool != b.LocalPools[0].ID {
			t.Errorf("node=%s: %+v", ref, op.DatasetRecord)
		}
	}
	if op := a.MustPlan(controltest.Create("db", "node=beta", "pool=plain")); op.DatasetRecord.Pool != b.LocalPools[1].ID {
		t.Errorf("both options: %+v", op.DatasetRecord)
	}
	a.MustRefusePlan(controltest.Create("db", "node=beat"), dataset.ErrInvalid, `unknown node "beat"`, "alpha, beta, gamma", "beta?")
	a.MustRefusePlan(controltest.Create("db", "node=beta", "pool=fats"), dataset.ErrInvalid, `unknown pool "fats"`)
	a.ReportFacts(nil)
	b.ReportFacts(nil)
	g.LocalPools = append(g.LocalPools, dataset.Pool{ID: uuid.New(), Name: "spare", Backend: "loop", Capabilities: controltest.LoopCapabilities})
	g.MustRegister("gamma")
	a.MustRefusePlan(controltest.Create("db", "node=beta", "pool=spare"), dataset.ErrInvalid, "volume db: node beta has no pool spare (its pools: fast, plain)")
	where(e, "here", `node == "alpha"`)
	a.MustRefusePlan(controltest.Create("db@here", "node=beta"), dataset.ErrUnsupported,
		`volume db: no pool can satisfy profile here: node beta: node is "beta", not == "alpha"`)
	if _, err := e.Cordon(e.Ctx, b.ID, api.Cordoned{Cordoned: true}); err != nil {
		t.Fatal(err)
	}
	a.MustRefusePlan(controltest.Create("db@gold", "node=beta"), dataset.ErrOffline, "node beta", "its node is cordoned", "cordon --off")
}

// TestAnImportStaysWhereItsFilesAre, although another node would fit.
func TestAnImportStaysWhereItsFilesAre(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	where(e, "busy", `load_10 < 20`)
	a.ReportFacts(func(f *dataset.Facts) { f.Load10 = 34 })
	b.ReportFacts(func(f *dataset.Facts) { f.Load10 = 3 })
	req := controltest.Create("db@busy")
	req.Kind, req.Path = dataset.OpImport, "/srv/x"
	a.MustRefusePlan(req, dataset.ErrUnsupported, "pools fast, plain: load_10 is 34, not < 20")
}

// TestNothingNewGoesToANodeThatIsAway: a new volume would have to wait until the node is reachable again.
func TestNothingNewGoesToANodeThatIsAway(t *testing.T) {
	x := controltest.NewReplicas(t, 2)
	a, b := x.Services[0], x.Services[1]
	var nodes []api.Registration
	for range 3 {
		r := controltest.Registration(uuid.New(), "boot")
		r.Pools = []dataset.Pool{{ID: uuid.New(), Name: "fast", Backend: "loop", Capabilities: controltest.LoopCapabilities}}
		if err := a.Members.Register(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, r)
	}
	home := func() uuid.UUID {
		t.Helper()
		p, err := b.Plan(t.Context(), uuid.Nil, controltest.Create("db"))
		if err != nil {
			t.Fatal(err)
		}
		return p.Operation.Node
	}
	got := map[uuid.UUID]bool{}
	for range 200 {
		got[home()] = true
	}
	if len(got) != 3 {
		t.Errorf("200 volumes go to %d of three nodes", len(got))
	}
	for range 30 { // the last one does not report
		x.Clock.Advance(2 * time.Second)
		for _, n := range nodes[:2] {
			if _, err := a.Members.Renew(t.Context(), n.Node.ID, n.Node.Incarnation); err != nil {
				t.Fatal(err)
			}
		}
	}
	x.AwaitEnd(record.LiveNodeKey(nodes[2].Node.ID))
	for range 200 {
		if home() == nodes[2].Node.ID {
			t.Fatal("a volume is placed on an unreachable node")
		}
	}
	_, err := b.Plan(t.Context(), uuid.Nil, controltest.Create("db", "node="+nodes[2].Node.ID.String()))
	controltest.Refused(t, err, dataset.ErrOffline, "pool fast of node n1 is not available now: its node is unreachable")
	x.Clock.Advance(time.Minute) // and the others do
	x.AwaitEnd(record.LiveNodeKey(nodes[0].Node.ID))
	x.AwaitEnd(record.LiveNodeKey(nodes[1].Node.ID))
	_, err = b.Plan(t.Context(), uuid.Nil, controltest.Create("db"))
	controltest.Refused(t, err, dataset.ErrOffline, "nodes n1, n1, n1: pool fast: its node is unreachable")
}

// A pool that its node once had and does not report any more gets nothing new, because nobody would create it.
func TestNothingNewGoesToAPoolThatIsNoMore(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	had := a.LocalPools
	a.LocalPools = had[1:] // "fast" is gone
	a.MustRegister("alpha")
	a.MustRefusePlan(controltest.Create("db@silver"), dataset.ErrOffline, "pool fast: its node no longer has it")
	b := e.NewAgent("beta")
	for name, pools := range map[uuid.UUID][]dataset.Pool{b.ID: had[1:], a.ID: had} {
		a.LocalPools = pools
		a.MustRegister("alpha")
		if op := a.MustPlan(controltest.Create("db@silver")); op.Node != name {
			t.Errorf("with %d pools it goes to node %s, not %s", len(pools), op.Node, name)
		}
	}
}
