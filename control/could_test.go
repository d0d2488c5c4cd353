package control

import (
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A refusal speaks of the pool that it is about, and says which other could, in the same words whatever
// was asked.
func TestWhichPoolCould(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	of := func(kind dataset.OpKind, volume string) api.Request { return api.Request{Kind: kind, Volume: volume} }
	says := func(want string, req api.Request) {
		t.Helper()
		if _, err := e.Plan(e.ctx, a.id, req); err == nil || err.Error() != want {
			t.Errorf("%v\nnot %s", err, want)
		}
	}
	a.create("small@bronze", "pool=plain")
	update, resize := of(dataset.OpUpdate, "small"), of(dataset.OpResize, "small")
	update.Profile, resize.Size = "gold", "1GiB"
	imp := create("db@gold", "pool=plain")
	imp.Kind, imp.Path = dataset.OpImport, "/srv/x"
	all := func(could string) {
		t.Helper()
		says("volume db: pool plain cannot keep profile gold: it cannot enforce a size"+could, imp)
		says("volume copy: pool plain cannot keep profile gold: it cannot enforce a size"+could, create("copy@gold", "from=small"))
		says("volume small: pool plain cannot give it size 1GiB: it cannot enforce a size"+could, resize)
		if _, err := e.Submit(e.ctx, update); err == nil || err.Error() != "volume small: pool plain cannot keep profile gold: it cannot enforce a size"+could {
			t.Errorf("set-profile: %v", err)
		}
	}
	says("volume db: pool plain cannot keep profile gold: it cannot enforce a size (pool fast of node alpha could)", create("db@gold", "pool=plain"))
	says("volume db: pool plain cannot keep profile bronze: it has no filesystem xfs inside volumes (pool fast of node alpha could)", create("db", "pool=plain", "fs=xfs"))
	all(" (pool fast of node alpha could)")
	a.sees(dataset.PoolStatus{ID: a.pools[0].ID, Reason: "its disk is absent"})
	says("volume db: pool plain cannot keep profile gold: it cannot enforce a size", create("db@gold", "pool=plain"))
	all("")
	e.agent("beta")
	says("volume db: no pool plain can keep profile gold: nodes alpha, beta: pool plain: it cannot enforce a size (pool fast of node beta could)", create("db@gold", "pool=plain"))
	says("volume db: pool plain cannot keep profile gold: it cannot enforce a size", imp) // its files are here
}

// Where a move cannot go, and which nodes cannot keep a replica, comes with where and who could.
func TestWhichNodeCould(t *testing.T) {
	e := newEnv(t)
	a, b, c := e.agent("alpha"), e.agent("beta"), e.agent("gamma")
	a.create("db@gold")
	b.pools[0].Capabilities = dirCan
	b.register("beta")
	_, err := e.Submit(e.ctx, moveTo("db", "beta"))
	refused(t, err, dataset.ErrUnsupported, "move of volume db to node beta: no pool can keep profile gold: pools fast, plain: it cannot enforce a size", " (pool fast of node gamma could; or make a pool there that can: drover pool create NAME --backend loop)")
	e.replicated(2)
	a.planned(create("copied@safe"), dataset.ErrUnsupported, "pool fast of node beta: ", " (pool fast of node gamma could)")
	a.planned(create("copied@safe", "from=db"), dataset.ErrUnsupported, "pool fast of node beta: ", " (pool fast of node gamma could)")
	c.pools[0].Capabilities = dirCan
	c.register("gamma")
	_, err = e.Submit(e.ctx, moveTo("db", "beta"))
	refused(t, err, dataset.ErrUnsupported, " (make a pool there that can: drover pool create NAME --backend loop)")
}

// Of a pool that could not be opened since its node started nobody knows what it can: it is said to be
// offline, and not to be unable to keep anything.
func TestOfflinePoolIsSaidToBeOffline(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db@gold")
	a.pools[0].Capabilities = dataset.Capabilities{}
	a.register("alpha")
	if err := e.Heartbeat(e.ctx, a.id, api.Heartbeat{
		Incarnation: a.incarnation, Pools: []dataset.PoolStatus{{ID: a.pools[0].ID, Reason: "xfs needs mkfs.xfs"}},
		Unmade: []api.Pool{{Pool: dataset.Pool{Name: "new", Node: a.id, Backend: "loop"}, Status: &dataset.PoolStatus{Reason: "/new is absent"}}},
	}); err != nil {
		t.Fatal(err)
	}
	a.planned(create("more@gold"), dataset.ErrOffline, "pool fast: it is offline: xfs needs mkfs.xfs", "pool plain: it cannot enforce a size")
	a.planned(create("more@gold", "pool=plain"), dataset.ErrUnsupported, "pool plain cannot keep profile gold: it cannot enforce a size")
	a.planned(create("more", "pool=new"), dataset.ErrOffline, "pool new of node alpha is offline: /new is absent")
	a.planned(api.Request{Kind: dataset.OpResize, Volume: "db", Size: "30GiB"}, dataset.ErrOffline, "volume db: pool fast is offline: xfs needs mkfs.xfs")
	_, err := e.Submit(e.ctx, api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "silver"})
	refused(t, err, dataset.ErrOffline, "it is offline: xfs needs mkfs.xfs")
}
