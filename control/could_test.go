package control

import (
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A refusal speaks of the pool that was asked for, and says which other could.
func TestWhichPoolCould(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	says := func(want string, req api.Request) {
		t.Helper()
		if _, err := e.Plan(e.ctx, a.id, req); err == nil || err.Error() != want {
			t.Errorf("%v\nnot %s", err, want)
		}
	}
	says("volume db: no pool plain can keep profile gold: pool plain: it cannot enforce a size (pool fast could)", create("db@gold", "pool=plain"))
	says("volume db: no pool plain can keep profile bronze: pool plain: it has no filesystem xfs inside volumes (pool fast could)", create("db", "pool=plain", "fs=xfs"))
	a.sees(dataset.PoolStatus{ID: a.pools[0].ID, Reason: "its disk is absent"})
	says("volume db: no pool plain can keep profile gold: pool plain: it cannot enforce a size", create("db@gold", "pool=plain"))
	e.agent("beta")
	says("volume db: no pool plain can keep profile gold: node alpha: pool plain: it cannot enforce a size; node beta: pool plain: it cannot enforce a size (pool fast of node beta could)", create("db@gold", "pool=plain"))
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
	a.planned(create("more@gold", "pool=plain"), dataset.ErrUnsupported, "pool plain: it cannot enforce a size")
	a.planned(create("more", "pool=new"), dataset.ErrOffline, "pool new of node alpha is offline: /new is absent")
	a.planned(api.Request{Kind: dataset.OpResize, Volume: "db", Size: "30GiB"}, dataset.ErrOffline, "volume db: pool fast is offline: xfs needs mkfs.xfs")
	_, err := e.Submit(e.ctx, api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "silver"})
	refused(t, err, dataset.ErrOffline, "it is offline: xfs needs mkfs.xfs")
}
