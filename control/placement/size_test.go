package placement_test

import (
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// A volume that is larger than its whole pool is refused, and the error names a pool that could hold it. An existing
// one stays as usable as it was.
func TestLargerThanItsPool(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
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
	_, err := e.Submit(e.Ctx, update("small", "gold"))
	controltest.Refused(t, err, dataset.ErrUnsupported, less, more)
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
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	total := func(x *controltest.Agent, size dataset.Size) {
		x.ReportPool(dataset.PoolStatus{ID: x.LocalPools[0].ID, Online: true, Size: size, Free: size})
	}
	a.MustCreate("db@gold") // 20GiB
	a.MustCreate("back@gold")
	total(a, 40*dataset.GiB)
	e.MustMove("back", a, b, "beta")
	total(b, 5*dataset.GiB)
	less := "pool fast: it has 5GiB in all, less than 20GiB"
	_, err := e.Submit(e.Ctx, controltest.Move("db", "beta"))
	controltest.Refused(t, err, dataset.ErrUnsupported, less)
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
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
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
	_, err := e.Submit(e.Ctx, update)
	controltest.Refused(t, err, dataset.ErrUnsupported, less)
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
