package placement_test

import (
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// A refusal names the pool that it is about, and the pools that could be used instead. It has the same words for
// every kind of request.
func TestWhichPoolCould(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
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
	_, err = e.Submit(e.Ctx, controltest.Move("db", "beta"))
	controltest.Refused(t, err, dataset.ErrUnsupported, " (create a suitable pool there: drover pool create NAME --backend loop)")
}

// The capabilities of a pool that has not been opened since its node started are unknown. The pool is reported as
// offline, and not as unable to keep anything.
func TestOfflinePoolIsSaidToBeOffline(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db@gold")
	a.LocalPools[0].Capabilities = dataset.Capabilities{}
	a.MustRegister("alpha")
	if err := e.Heartbeat(e.Ctx, a.ID, api.Heartbeat{
		Incarnation: a.Incarnation, Pools: []dataset.PoolStatus{{ID: a.LocalPools[0].ID, Reason: "xfs needs mkfs.xfs"}},
		FailedPools: []api.Pool{{Pool: dataset.Pool{Name: "new", Node: a.ID, Backend: "loop"}, Status: &dataset.PoolStatus{Reason: "/new is absent"}}},
	}); err != nil {
		t.Fatal(err)
	}
	a.MustRefusePlan(controltest.Create("more@gold"), dataset.ErrOffline, "pool fast: it is offline: xfs needs mkfs.xfs", "pool plain: it cannot enforce a size")
	a.MustRefusePlan(controltest.Create("more@gold", "pool=plain"), dataset.ErrUnsupported, "pool plain cannot satisfy profile gold: it cannot enforce a size")
	a.MustRefusePlan(controltest.Create("more", "pool=new"), dataset.ErrOffline, "pool new of node alpha is offline: /new is absent")
	a.MustRefusePlan(api.Request{Kind: dataset.OpResize, Volume: "db", Size: "30GiB"}, dataset.ErrOffline, "volume db: pool fast is offline: xfs needs mkfs.xfs")
	_, err := e.Submit(e.Ctx, api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "silver"})
	controltest.Refused(t, err, dataset.ErrOffline, "it is offline: xfs needs mkfs.xfs")
}
