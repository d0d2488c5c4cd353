package control

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// where adds a profile that says on which nodes it can be.
func (e *env) where(name, expression string, change ...func(*dataset.Profile)) {
	p := dataset.Profile{Name: name, Revision: "r", Placement: expression, OnDelete: dataset.OnDelete{Mode: dataset.DeletePurge}}
	for _, f := range change {
		f(&p)
	}
	e.profiles.byName[name] = p
}

// TestPlacementPicksANodeThatFits (A9): the asking node when it does, otherwise another,
// and the error says for each node which comparison failed, with the value.
func TestPlacementPicksANodeThatFits(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	e.where("busy", `architecture == "x86_64" and load_10 < 20`)
	e.where("roomy", `pool.free > "900GiB"`)

	a.planned(create("db@busy"), dataset.ErrOffline, "nodes alpha, beta: its facts are not known yet")
	a.tells(func(f *dataset.Facts) { f.Load10 = 34 })
	a.planned(create("db@busy"), dataset.ErrOffline,
		"volume db: no pool can keep profile busy: node alpha: load_10 is 34, not < 20; node beta: its facts are not known yet")
	b.tells(func(f *dataset.Facts) { f.Load10 = 3; f.Pools[1].Free = 1000 << 30 })
	for range 20 {
		if op := a.plan(create("db@busy")); op.Node != b.id || op.Dataset.Home != b.id || op.Dataset.Pool != b.pools[0].ID {
			t.Fatalf("%+v", op)
		}
	}
	if op := a.plan(create("db@roomy")); op.Dataset.Pool != b.pools[1].ID {
		t.Errorf("the pool that has room is not taken: %+v", op.Dataset)
	}
	if op := b.plan(create("db@busy")); op.Node != b.id {
		t.Error("the asking node fits, and is passed over")
	}

	// Frozen as it was: another placement in the file changes no volume.
	d := b.create("mine@busy")
	e.where("busy", `load_10 > 1000`)
	if got := e.volume("mine"); got.Profile.Placement != d.Profile.Placement || d.Profile.Placement != `architecture == "x86_64" and load_10 < 20` {
		t.Errorf("frozen: %q", got.Profile.Placement)
	}
	b.planned(create("db@busy"), dataset.ErrUnsupported, "node beta: load_10 is 3, not > 1000; node alpha: load_10 is 34, not > 1000")

	e.where("wrong", `lode == 3`)
	b.planned(create("db@wrong"), dataset.ErrInvalid, `placement of profile wrong: unknown fact "lode"`)
}

func TestEachNodeHasItsReason(t *testing.T) {
	e := newEnv(t)
	a, b, c, d := e.agent("alpha"), e.agent("beta"), e.agent("gamma"), e.agent("delta")
	e.where("gold2", `load_10 < 25`, func(p *dataset.Profile) { p.Size = 5 })
	for _, x := range []*agent{a, c, d} {
		x.tells(nil)
	}
	b.tells(func(f *dataset.Facts) { f.Load10 = 40 })
	if _, err := e.Cordon(e.ctx, a.id, api.Cordoned{Cordoned: true}); err != nil {
		t.Fatal(err)
	}
	c.tells(nil)
	d.pools = d.pools[1:]
	if _, err := e.Ledger.Update(e.ctx, func(t *record.Tx) error {
		return t.Put(record.NodeKey(d.id), dataset.Node{ID: d.id, Name: "delta", Incarnation: d.incarnation, Pools: []uuid.UUID{d.pools[0].ID}})
	}); err != nil {
		t.Fatal(err)
	}
	if op := a.plan(create("db@gold2")); op.Node != c.id {
		t.Errorf("gamma alone fits: %+v", op.Dataset)
	}
	e.where("gold2", `load_10 < 25 and node != "gamma"`, func(p *dataset.Profile) { p.Size = 5 })
	a.planned(create("db@gold2"), dataset.ErrOffline,
		"node alpha: pool fast: its node is cordoned, pool plain: it cannot enforce a size",
		"; node beta: pool fast: load_10 is 40, not < 25, pool plain: it cannot enforce a size",
		"; node delta: pool plain: it cannot enforce a size",
		`; node gamma: pool fast: node is "gamma", not != "gamma", pool plain: it cannot enforce a size`)
}

// TestAnImportStaysWhereItsFilesAre although another node would fit.
func TestAnImportStaysWhereItsFilesAre(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	e.where("busy", `load_10 < 20`)
	a.tells(func(f *dataset.Facts) { f.Load10 = 34 })
	b.tells(func(f *dataset.Facts) { f.Load10 = 3 })
	req := create("db@busy")
	req.Kind, req.Path = dataset.OpImport, "/srv/x"
	a.planned(req, dataset.ErrUnsupported, "pools fast, plain: load_10 is 34, not < 20")
}

// TestTheDecisionRestsOnWhatWasChosen (I1, write skew): a node that is cordoned between
// the choice and the transaction is not taken.
func TestTheDecisionRestsOnWhatWasChosen(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	tr := record.NewTx(e.ctx, e.spy)
	op, _, err := e.Service.submit(tr, create("db").Parsed())
	if err != nil || op.Node != a.id {
		t.Fatal(op, err)
	}
	for _, key := range []string{record.NodeKey(a.id), record.PoolKey(a.pools[0].ID)} {
		if tr.Entry(key).Index == 0 {
			t.Errorf("%s is not checked", key)
		}
	}
}

// TestNothingNewGoesToANodeThatIsAway: it would wait for that one to come back.
func TestNothingNewGoesToANodeThatIsAway(t *testing.T) {
	x := newShared(t, 2)
	a, b := x.list[0], x.list[1]
	var nodes []api.Registration
	for range 3 {
		r := registration(uuid.New(), "boot")
		r.Pools = []dataset.Pool{{ID: uuid.New(), Name: "fast", Backend: "loop", Capabilities: loopCan}}
		if err := a.Members.Register(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, r)
	}
	home := func() uuid.UUID {
		t.Helper()
		p, err := b.Plan(t.Context(), uuid.Nil, create("db"))
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
	for range 30 { // the last one is silent
		x.clock.Advance(2 * time.Second)
		for _, n := range nodes[:2] {
			if _, err := a.Members.Renew(t.Context(), n.Node.ID, n.Node.Incarnation); err != nil {
				t.Fatal(err)
			}
		}
	}
	x.awaitEnd(record.LiveNodeKey(nodes[2].Node.ID))
	for range 200 {
		if home() == nodes[2].Node.ID {
			t.Fatal("a volume goes to a node that is away")
		}
	}
	x.clock.Advance(time.Minute) // and the others
	x.awaitEnd(record.LiveNodeKey(nodes[0].Node.ID))
	x.awaitEnd(record.LiveNodeKey(nodes[1].Node.ID))
	_, err := b.Plan(t.Context(), uuid.Nil, create("db"))
	refused(t, err, dataset.ErrOffline, "nodes n1, n1, n1: pool fast: its node is away")
}

// A pool that its node had once, and does not name any more, gets nothing new: nobody would make it.
func TestNothingNewGoesToAPoolThatIsNoMore(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	had := a.pools
	a.pools = had[1:] // "fast" is gone
	a.register("alpha")
	a.planned(create("db@silver"), dataset.ErrOffline, "pool fast: its node has it no more")
	b := e.agent("beta")
	for name, pools := range map[uuid.UUID][]dataset.Pool{b.id: had[1:], a.id: had} {
		a.pools = pools
		a.register("alpha")
		if op := a.plan(create("db@silver")); op.Node != name {
			t.Errorf("with %d pools it goes to node %s, not %s", len(pools), op.Node, name)
		}
	}
}
