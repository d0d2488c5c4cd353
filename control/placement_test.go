package control

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

func TestPlacement(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	for _, x := range []*agent{a, b} {
		if d := x.plan(create("db")).Dataset; d.Home != x.id || d.Pool != x.pools[0].ID {
			t.Errorf("a node's own request goes to %s, %s", d.Home, d.Pool)
		}
	}
	if d := a.plan(create("db", "pool=plain")).Dataset; d.Pool != a.pools[1].ID {
		t.Errorf("%s", d.Pool)
	}
	status := func(x *agent, online bool) {
		st := dataset.PoolStatus{ID: x.pools[0].ID, Online: online, Reason: "absent"}
		if err := e.Heartbeat(e.ctx, x.id, api.Heartbeat{Incarnation: x.incarnation, Pools: []dataset.PoolStatus{st}}); err != nil {
			t.Fatal(err)
		}
	}
	a.create("mine@gold")
	status(a, false)
	if op := a.plan(create("db@gold")); op.Node != b.id || op.Dataset.Pool != b.pools[0].ID {
		t.Errorf("what cannot be on a node that is away from its pool goes to %s", op.Node)
	}
	status(b, false)
	a.planned(create("db@gold"), dataset.ErrOffline, "nodes alpha, beta: pool fast: it is offline: absent, pool plain: it cannot enforce a size")
	status(b, true)
	a.planned(create("db", "from=mine"), dataset.ErrOffline, "it is offline")
	if out := e.submit(create("db@gold")); out.Operation.Node != b.id { // anyone's request
		t.Errorf("%+v", out.Operation)
	}
	status(a, true)
	a.plan(create("db3@gold"))

	// Another node's pool is not this one's to speak of.
	if err := e.Heartbeat(e.ctx, b.id, api.Heartbeat{Incarnation: b.incarnation, Pools: []dataset.PoolStatus{{ID: a.pools[0].ID}}}); err != nil {
		t.Fatal(err)
	}
	a.plan(create("db3@gold"))
	// A pool that another node has adopted is that one's.
	b.pools = append(b.pools, a.pools[0])
	b.register("beta")
	if op := a.plan(create("db3", "pool=fast")); op.Node != b.id {
		t.Errorf("pool fast is beta's, and the volume goes to %s", op.Node)
	}
	a.planned(create("db3", "pool=fats"), dataset.ErrInvalid, `unknown pool "fats" (have: fast, plain)`)

	pools, err := e.Pools(e.ctx)
	if err != nil || len(pools) != 4 {
		t.Errorf("%+v, %v", pools, err)
	}
	for _, p := range pools {
		if (p.NodeName == "alpha") != (p.ID == a.pools[1].ID) {
			t.Errorf("%s is %s's", p.Path, p.NodeName)
		}
	}
	nobody := uuid.New()
	if p, err := e.Plan(e.ctx, nobody, create("db3")); err != nil || p.Operation.Node != a.id && p.Operation.Node != b.id {
		t.Errorf("%+v, %v", p.Operation, err)
	}
}

func TestRegister(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	cluster := func() uuid.UUID {
		s, err := e.Sync(e.ctx, a.id, 0, 0)
		if err != nil || s.Cluster == uuid.Nil {
			t.Fatal(s.Cluster, err)
		}
		return s.Cluster
	}
	id := cluster()
	a.create("db")
	_, err := e.Ledger.Update(e.ctx, func(t *record.Tx) error {
		return t.Put(record.NodeKey(a.id), dataset.Node{ID: a.id, Name: "alpha", Incarnation: a.incarnation, Cordoned: true, Pools: []uuid.UUID{a.pools[0].ID, a.pools[1].ID}})
	})
	if err != nil {
		t.Fatal(err)
	}
	gone := a.pools[1].ID
	a.pools = a.pools[:1]
	a.incarnation = uuid.New()
	a.register("alpha2")
	nodes, err := e.NodeList(e.ctx, "")
	if err != nil || len(nodes) != 1 {
		t.Fatal(nodes, err)
	}
	if n := nodes[0]; n.Name != "alpha2" || !n.Cordoned || len(n.Pools) != 2 || n.Pools[1] != gone || n.Incarnation != a.incarnation {
		t.Errorf("%+v", n)
	}
	if cluster() != id {
		t.Error("the store has another identity than before")
	}
	a.planned(create("db2"), dataset.ErrOffline, "its node is cordoned")
	for _, r := range []api.Registration{
		{}, {Node: dataset.Node{ID: uuid.New()}}, {Node: dataset.Node{ID: uuid.New(), Incarnation: uuid.New()}, Pools: []dataset.Pool{{Name: "x"}}},
		{Node: dataset.Node{ID: uuid.New(), Incarnation: uuid.New()}, Pools: []dataset.Pool{a.pools[0], a.pools[0]}},
	} {
		refused(t, e.Register(e.ctx, r), dataset.ErrInvalid, "register")
	}
}

// Pools are listed by node and name, and not as their UUIDs happen to be.
func TestPoolsAreInOrder(t *testing.T) {
	e := newEnv(t)
	for _, node := range []string{"gamma", "alpha", "delta", "beta"} {
		e.agent(node)
	}
	pools, err := e.Pools(e.ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range pools {
		got = append(got, p.NodeName+"/"+p.Name)
	}
	if len(got) != 8 || !slices.IsSorted(got) {
		t.Errorf("%v", got)
	}
}
