package placement_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
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
	e, a, b := controltest.TwoNodes(t)
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
	e.OK(e.Cordon(e.Ctx, a.ID, api.Cordoned{Cordoned: true}))
	c.ReportFacts(nil)
	d.LocalPools = d.LocalPools[1:]
	e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		return t.Put(record.NodeKey(d.ID), dataset.Node{ID: d.ID, Name: "delta", Incarnation: d.Incarnation, Pools: []uuid.UUID{d.LocalPools[0].ID}})
	}))
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
	e.OK(e.Cordon(e.Ctx, b.ID, api.Cordoned{Cordoned: true}))
	a.MustRefusePlan(controltest.Create("db@gold", "node=beta"), dataset.ErrOffline, "node beta", "its node is cordoned", "cordon --off")
}

// TestAnImportStaysWhereItsFilesAre, although another node would fit.
func TestAnImportStaysWhereItsFilesAre(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
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
		require.NoError(t, a.Members.Register(t.Context(), r))
		nodes = append(nodes, r)
	}
	home := func() uuid.UUID {
		t.Helper()
		p, err := b.Plan(t.Context(), uuid.Nil, controltest.Create("db"))
		require.NoError(t, err)
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
			_, err := a.Members.Renew(t.Context(), n.Node.ID, n.Node.Incarnation)
			require.NoError(t, err)
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
	e, a := controltest.OneNode(t)
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

// However many nodes exist, a volume is placed on one of them.
func TestManyNodes(t *testing.T) {
	e := controltest.New(t)
	for i := range 70 { // with two pools each
		e.NewAgent(fmt.Sprint("node", i))
	}
	if out := e.MustSubmit(controltest.Create("db")); out.Operation == nil {
		t.Errorf("%+v", out)
	}
	e.CheckInvariants()
}

func TestPlacement(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	for _, x := range []*controltest.Agent{a, b} {
		if d := x.MustPlan(controltest.Create("db")).DatasetRecord; d.Home != x.ID || d.Pool != x.LocalPools[0].ID {
			t.Errorf("a node's own request goes to %s, %s", d.Home, d.Pool)
		}
	}
	if d := a.MustPlan(controltest.Create("db", "pool=plain")).DatasetRecord; d.Pool != a.LocalPools[1].ID {
		t.Errorf("%s", d.Pool)
	}
	status := func(x *controltest.Agent, online bool) {
		st := dataset.PoolStatus{ID: x.LocalPools[0].ID, Online: online, Reason: "absent"}
		e.OK(e.Heartbeat(e.Ctx, x.ID, api.Heartbeat{Incarnation: x.Incarnation, Pools: []dataset.PoolStatus{st}}))
	}
	a.MustCreate("mine@gold")
	status(a, false)
	if op := a.MustPlan(controltest.Create("db@gold")); op.Node != b.ID || op.DatasetRecord.Pool != b.LocalPools[0].ID {
		t.Errorf("a volume that cannot be on a node without its pool is placed on %s", op.Node)
	}
	status(b, false)
	a.MustRefusePlan(controltest.Create("db@gold"), dataset.ErrOffline, "nodes alpha, beta: pool fast: it is offline: absent, pool plain: it cannot enforce a size")
	status(b, true)
	a.MustRefusePlan(controltest.Create("db", "from=mine"), dataset.ErrOffline, "it is offline")
	if out := e.MustSubmit(controltest.Create("db@gold")); out.Operation.Node != b.ID { // a request by anyone
		t.Errorf("%+v", out.Operation)
	}
	status(a, true)
	a.MustPlan(controltest.Create("db3@gold"))

	// A node cannot report about a pool of another node.
	e.OK(e.Heartbeat(e.Ctx, b.ID, api.Heartbeat{Incarnation: b.Incarnation, Pools: []dataset.PoolStatus{{ID: a.LocalPools[0].ID}}}))
	a.MustPlan(controltest.Create("db3@gold"))
	// A pool that another node has adopted belongs to that node.
	b.LocalPools = append(b.LocalPools, a.LocalPools[0])
	b.MustRegister("beta")
	if op := a.MustPlan(controltest.Create("db3", "pool=fast")); op.Node != b.ID {
		t.Errorf("pool fast belongs to beta, and the volume is placed on %s", op.Node)
	}
	a.MustRefusePlan(controltest.Create("db3", "pool=fats"), dataset.ErrInvalid, `unknown pool "fats" (available: fast, plain)`)
	imported := controltest.Create("db3", "pool=fats") // the node with the files must have the pool
	imported.Kind, imported.Path = dataset.OpImport, "/srv"
	a.MustRefusePlan(imported, dataset.ErrInvalid, `unknown pool "fats" (available: fast, plain)`)

	pools, err := e.Pools(e.Ctx)
	if err != nil || len(pools) != 4 {
		t.Errorf("%+v, %v", pools, err)
	}
	for _, p := range pools {
		if (p.NodeName == "alpha") != (p.ID == a.LocalPools[1].ID) {
			t.Errorf("%s is %s's", p.Path, p.NodeName)
		}
	}
	nobody := uuid.New()
	if p, err := e.Plan(e.Ctx, nobody, controltest.Create("db3")); err != nil || p.Operation.Node != a.ID && p.Operation.Node != b.ID {
		t.Errorf("%+v, %v", p.Operation, err)
	}
}

// A refusal names the pool that it is about, and the pools that could be used instead. It has the same words for
// every kind of request.
func TestWhichPoolCould(t *testing.T) {
	e, a := controltest.OneNode(t)
	of := func(kind dataset.OpKind, volume string) api.Request { return api.Request{Kind: kind, Volume: volume} }
	says := func(want string, req api.Request) {
		t.Helper()
		if _, err := e.Plan(e.Ctx, a.ID, req); err == nil || err.Error() != want {
			t.Errorf("%v\nnot %s", err, want)
		}
	}
	a.MustCreate("small@bronze", "pool=plain")
	update, resize := of(dataset.OpUpdate, "small"), of(dataset.OpResize, "small")
	update.Profile, resize.Size = "silver", "1GiB"
	imp := controltest.Create("db@gold", "pool=plain")
	imp.Kind, imp.Path = dataset.OpImport, "/srv/x"
	all := func(could string) {
		t.Helper()
		says("volume db: pool plain cannot satisfy profile gold: it cannot enforce a size"+could, imp)
		says("volume copy: pool plain cannot satisfy profile gold: it cannot enforce a size"+could, controltest.Create("copy@gold", "from=small"))
		says("volume small: pool plain cannot change its size to 1GiB: it cannot enforce a size"+could, resize)
		if _, err := e.Submit(e.Ctx, update); err == nil || err.Error() != "volume small: pool plain cannot satisfy profile silver: it cannot enforce a size"+could {
			t.Errorf("set-profile: %v", err)
		}
	}
	says("volume db: pool plain cannot satisfy profile gold: it cannot enforce a size (pool fast of node alpha could)", controltest.Create("db@gold", "pool=plain"))
	says("volume db: pool plain cannot satisfy profile bronze: it has no filesystem xfs inside volumes (pool fast of node alpha could)", controltest.Create("db", "pool=plain", "fs=xfs"))
	all(" (pool fast of node alpha could)")
	a.ReportPool(dataset.PoolStatus{ID: a.LocalPools[0].ID, Reason: "its disk is absent"})
	says("volume db: pool plain cannot satisfy profile gold: it cannot enforce a size", controltest.Create("db@gold", "pool=plain"))
	all("")
	e.NewAgent("beta")
	says("volume db: no pool plain can satisfy profile gold: nodes alpha, beta: pool plain: it cannot enforce a size (pool fast of node beta could)", controltest.Create("db@gold", "pool=plain"))
	says("volume db: pool plain cannot satisfy profile gold: it cannot enforce a size", imp) // its files are in this pool
}

// An error that a move cannot go to a node, or that nodes cannot keep a replica, says which nodes and pools could.
func TestWhichNodeCould(t *testing.T) {
	e := controltest.New(t)
	a, b, c := e.NewAgent("alpha"), e.NewAgent("beta"), e.NewAgent("gamma")
	a.MustCreate("db@gold")
	b.LocalPools[0].Capabilities = controltest.DirCapabilities
	b.MustRegister("beta")
	_, err := e.Submit(e.Ctx, controltest.Move("db", "beta"))
	controltest.Refused(t, err, dataset.ErrUnsupported, "move of volume db to node beta: no pool can satisfy profile gold: pools fast, plain: it cannot enforce a size", " (pool fast of node gamma could; or create a suitable pool there: drover pool create NAME --backend loop)")
	e.AddReplicaProfile(2)
	a.MustRefusePlan(controltest.Create("copied@safe"), dataset.ErrUnsupported, "pool fast of node beta: ", " (pool fast of node gamma could)")
	a.MustRefusePlan(controltest.Create("copied@safe", "from=db"), dataset.ErrUnsupported, "pool fast of node beta: ", " (pool fast of node gamma could)")
	c.LocalPools[0].Capabilities = controltest.DirCapabilities
	c.MustRegister("gamma")
	e.MustRefuse(controltest.Move("db", "beta"), dataset.ErrUnsupported, " (create a suitable pool there: drover pool create NAME --backend loop)")
}

// The capabilities of a pool that has not been opened since its node started are unknown. The pool is reported as
// offline, and not as unable to keep anything.
func TestOfflinePoolIsSaidToBeOffline(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@gold")
	a.LocalPools[0].Capabilities = dataset.Capabilities{}
	a.MustRegister("alpha")
	e.OK(e.Heartbeat(e.Ctx, a.ID, api.Heartbeat{
		Incarnation: a.Incarnation, Pools: []dataset.PoolStatus{{ID: a.LocalPools[0].ID, Reason: "xfs needs mkfs.xfs"}},
		FailedPools: []api.Pool{{Pool: dataset.Pool{Name: "new", Node: a.ID, Backend: "loop"}, Status: &dataset.PoolStatus{Reason: "/new is absent"}}},
	}))
	a.MustRefusePlan(controltest.Create("more@gold"), dataset.ErrOffline, "pool fast: it is offline: xfs needs mkfs.xfs", "pool plain: it cannot enforce a size")
	a.MustRefusePlan(controltest.Create("more@gold", "pool=plain"), dataset.ErrUnsupported, "pool plain cannot satisfy profile gold: it cannot enforce a size")
	a.MustRefusePlan(controltest.Create("more", "pool=new"), dataset.ErrOffline, "pool new of node alpha is offline: /new is absent")
	a.MustRefusePlan(api.Request{Kind: dataset.OpResize, Volume: "db", Size: "30GiB"}, dataset.ErrOffline, "volume db: pool fast is offline: xfs needs mkfs.xfs")
	e.MustRefuse(api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "silver"}, dataset.ErrOffline, "it is offline: xfs needs mkfs.xfs")
}

// A target without room for what a volume uses, as agents report it, is refused. The error has both sizes.
func TestMoveToFull(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	d := a.MustCreate("db@gold")
	say := func(of *controltest.Agent, h api.Heartbeat) {
		h.Incarnation = of.Incarnation
		e.OK(e.Heartbeat(e.Ctx, of.ID, h))
	}
	say(a, api.Heartbeat{Datasets: []dataset.DatasetStatus{{ID: d.ID, InPool: new(30 * dataset.GiB)}}})
	say(b, api.Heartbeat{Pools: []dataset.PoolStatus{{ID: b.LocalPools[0].ID, Online: true, Size: 100 * dataset.GiB, Free: 20 * dataset.GiB}}})
	before := e.Dump()
	e.MustRefuse(controltest.Move("db", "beta"), dataset.ErrNoSpace, "volume db", "pool fast of node beta has 20", "needs 30")
	if diff := cmp.Diff(before, e.Dump()); diff != "" {
		t.Error(diff)
	}
}

// A volume that is larger than its whole pool is refused, and the error names a pool that could hold it. An existing
// one stays as usable as it was.
func TestLargerThanItsPool(t *testing.T) {
	e, a := controltest.OneNode(t)
	total := func(x *controltest.Agent, size dataset.Size) {
		x.ReportPool(dataset.PoolStatus{ID: x.LocalPools[0].ID, Online: true, Size: size, Free: size})
	}
	a.MustCreate("old@gold") // 20GiB
	a.MustCreate("small@silver", "size=1GiB", "fs=xfs")
	total(a, 15*dataset.GiB)
	clone := func(size string) api.Request { return controltest.Create("copy", "from=small", "size="+size) }
	resize := func(v, size string) api.Request {
		return api.Request{Kind: dataset.OpResize, Volume: v, Size: size}
	}
	update := func(v, p string) api.Request { return api.Request{Kind: dataset.OpUpdate, Volume: v, Profile: p} }
	less, more := "it has 15GiB in all, less than 20GiB", "(choose a smaller size or another profile, or enlarge the pool)"
	for _, req := range []api.Request{controltest.Create("new@gold"), controltest.Create("new@silver", "size=20GiB", "pool="+a.LocalPools[0].Name), clone("20GiB"), resize("small", "20GiB")} {
		a.MustRefusePlan(req, dataset.ErrUnsupported, less, more)
	}
	for _, req := range []api.Request{controltest.Create("new@silver", "size=15GiB"), clone("15GiB"), resize("small", "15GiB"), controltest.Create("two", "from=old")} {
		if p, err := e.Plan(e.Ctx, a.ID, req); err != nil || p.Operation == nil {
			t.Errorf("%+v: %+v, %v", req, p, err)
		}
	}
	e.MustRefuse(update("small", "gold"), dataset.ErrUnsupported, less, more)
	e.MustSubmit(update("old", "silver"))
	b := e.NewAgent("beta")
	total(b, 40*dataset.GiB)
	a.MustRefusePlan(clone("20GiB"), dataset.ErrUnsupported, less, b.LocalPools[0].Name+" of node beta could")
	if d := a.MustPlan(controltest.Create("new@gold")).DatasetRecord; d.Home != b.ID {
		t.Errorf("it is placed on node %s", d.Home)
	}
	e.CheckInvariants()
}

// A volume is neither moved nor copied to a pool that is smaller than the volume. It is moved to such a pool if a
// copy is already there. A pool of unknown size accepts any volume.
func TestLargerThanAnothersPool(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	total := func(x *controltest.Agent, size dataset.Size) {
		x.ReportPool(dataset.PoolStatus{ID: x.LocalPools[0].ID, Online: true, Size: size, Free: size})
	}
	a.MustCreate("db@gold") // 20GiB
	a.MustCreate("back@gold")
	total(a, 40*dataset.GiB)
	e.MustMove("back", a, b, "beta")
	total(b, 5*dataset.GiB)
	less := "pool fast: it has 5GiB in all, less than 20GiB"
	e.MustRefuse(controltest.Move("db", "beta"), dataset.ErrUnsupported, less)
	total(a, 15*dataset.GiB) // the storage was replaced by a smaller one
	e.MustSubmit(controltest.Move("db", "beta"))
	total(b, 40*dataset.GiB)
	e.MustSubmit(controltest.Move("back", "alpha")) // whose copy is there
	total(b, 0)
	if d := b.MustPlan(controltest.Create("any@gold")).DatasetRecord; d.Home != b.ID {
		t.Errorf("it is placed on node %s", d.Home)
	}
	total(a, 40*dataset.GiB)
	total(b, 5*dataset.GiB)
	e.AddReplicaProfile(1) // of 10GiB
	a.MustRefusePlan(controltest.Create("copied@safe"), dataset.ErrUnsupported, "pool fast of node beta: it has 5GiB in all, less than 10GiB")
	total(b, 10*dataset.GiB)
	a.MustPlan(controltest.Create("copied@safe"))
	e.CheckInvariants()
}

// Replicas that a profile promises are refused if no other pool is as large as the volume will be. The size in the
// profile is not enough for the check: a larger volume would have no replica, and nobody would notice.
func TestReplicasOfWhatItComesTo(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	total := func(x *controltest.Agent, size dataset.Size) {
		x.ReportPool(dataset.PoolStatus{ID: x.LocalPools[0].ID, Online: true, Size: size, Free: size})
	}
	e.AddReplicaProfile(1) // of 10GiB
	total(a, 100*dataset.GiB)
	total(b, 15*dataset.GiB)
	a.MustCreate("db@silver", "size=20GiB")
	a.MustCreate("small@safe")
	less := "pool fast of node beta: it has 15GiB in all, less than 20GiB"
	update := api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "safe"}
	clones := []api.Request{controltest.Create("copy@safe", "from=db"), controltest.Create("copy", "from=small", "size=20GiB")}
	e.MustRefuse(update, dataset.ErrUnsupported, less)
	for _, req := range clones {
		a.MustRefusePlan(req, dataset.ErrUnsupported, less)
	}
	total(b, 20*dataset.GiB)
	e.MustSubmit(update)
	for i, req := range clones {
		req.Volume = string(rune('x'+i)) + req.Volume
		a.MustDo(req)
	}
	total(b, 0)
	b.ReportPool(dataset.PoolStatus{ID: b.LocalPools[0].ID, Reason: "its disk is absent"})
	a.MustCreate("same", "from=small") // it has the size of its source
	for _, name := range []string{"db", "small", "xcopy", "ycopy"} {
		if v := e.MustVolume(name); len(v.Copies) != 1 {
			t.Errorf("%s has copies %v", name, v.Copies)
		}
	}
	e.CheckInvariants()
}
