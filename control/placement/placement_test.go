package placement_test

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

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
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
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
		if err := e.Heartbeat(e.Ctx, x.ID, api.Heartbeat{Incarnation: x.Incarnation, Pools: []dataset.PoolStatus{st}}); err != nil {
			t.Fatal(err)
		}
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
	if err := e.Heartbeat(e.Ctx, b.ID, api.Heartbeat{Incarnation: b.Incarnation, Pools: []dataset.PoolStatus{{ID: a.LocalPools[0].ID}}}); err != nil {
		t.Fatal(err)
	}
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
