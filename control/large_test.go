package control

import (
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A volume that is larger than all of its pool is refused, and which pool could have it is said; one
// that is there already stays as usable as it was.
func TestLargerThanItsPool(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	total := func(x *agent, size dataset.Size) {
		x.sees(dataset.PoolStatus{ID: x.pools[0].ID, Online: true, Size: size, Free: size})
	}
	a.create("old@gold") // 20GiB
	a.create("small@silver", "size=1GiB", "fs=xfs")
	total(a, 15*dataset.GiB)
	clone := func(size string) api.Request { return create("copy", "from=small", "size="+size) }
	resize := func(v, size string) api.Request {
		return api.Request{Kind: dataset.OpResize, Volume: v, Size: size}
	}
	update := func(v, p string) api.Request { return api.Request{Kind: dataset.OpUpdate, Volume: v, Profile: p} }
	less, more := "it has 15GiB in all, less than 20GiB", "(ask for less, or make the pool larger)"
	for _, req := range []api.Request{create("new@gold"), create("new@silver", "size=20GiB", "pool="+a.pools[0].Name), clone("20GiB"), resize("small", "20GiB")} {
		a.planned(req, dataset.ErrUnsupported, less, more)
	}
	for _, req := range []api.Request{create("new@silver", "size=15GiB"), clone("15GiB"), resize("small", "15GiB"), create("two", "from=old")} {
		if p, err := e.Plan(e.ctx, a.id, req); err != nil || p.Operation == nil {
			t.Errorf("%+v: %+v, %v", req, p, err)
		}
	}
	_, err := e.Submit(e.ctx, update("small", "gold"))
	refused(t, err, dataset.ErrUnsupported, less, more)
	e.submit(update("old", "silver"))
	b := e.agent("beta")
	total(b, 40*dataset.GiB)
	a.planned(clone("20GiB"), dataset.ErrUnsupported, less, b.pools[0].Name+" of node beta could")
	if d := a.plan(create("new@gold")).Dataset; d.Home != b.id {
		t.Errorf("it is to lie on node %s", d.Home)
	}
	e.check()
}

// A volume is not moved, nor copied, to where it could never be full; to where it has a copy it is, and
// a pool of which nobody knows how large it is takes any.
func TestLargerThanAnothersPool(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	total := func(x *agent, size dataset.Size) {
		x.sees(dataset.PoolStatus{ID: x.pools[0].ID, Online: true, Size: size, Free: size})
	}
	a.create("db@gold") // 20GiB
	a.create("back@gold")
	total(a, 40*dataset.GiB)
	e.moved("back", a, b, "beta")
	total(b, 5*dataset.GiB)
	less := "pool fast: it has 5GiB in all, less than 20GiB"
	_, err := e.Submit(e.ctx, moveTo("db", "beta"))
	refused(t, err, dataset.ErrUnsupported, less)
	total(a, 15*dataset.GiB) // as an older version took it
	e.submit(moveTo("db", "beta"))
	total(b, 40*dataset.GiB)
	e.submit(moveTo("back", "alpha")) // whose copy lies there
	total(b, 0)
	if d := b.plan(create("any@gold")).Dataset; d.Home != b.id {
		t.Errorf("it is to lie on node %s", d.Home)
	}
	total(a, 40*dataset.GiB)
	total(b, 5*dataset.GiB)
	e.replicated(1) // of 10GiB
	a.planned(create("copied@safe"), dataset.ErrUnsupported, "pool fast of node beta: it has 5GiB in all, less than 10GiB")
	total(b, 10*dataset.GiB)
	a.plan(create("copied@safe"))
	e.check()
}

// Replicas that a profile promises are refused where no other pool is as large as the volume comes to
// be, and not as the profile says alone: a larger volume had none, and nobody was told.
func TestReplicasOfWhatItComesTo(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	total := func(x *agent, size dataset.Size) {
		x.sees(dataset.PoolStatus{ID: x.pools[0].ID, Online: true, Size: size, Free: size})
	}
	e.replicated(1) // of 10GiB
	total(a, 100*dataset.GiB)
	total(b, 15*dataset.GiB)
	a.create("db@silver", "size=20GiB")
	a.create("small@safe")
	less := "pool fast of node beta: it has 15GiB in all, less than 20GiB"
	update := api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "safe"}
	clones := []api.Request{create("copy@safe", "from=db"), create("copy", "from=small", "size=20GiB")}
	_, err := e.Submit(e.ctx, update)
	refused(t, err, dataset.ErrUnsupported, less)
	for _, req := range clones {
		a.planned(req, dataset.ErrUnsupported, less)
	}
	total(b, 20*dataset.GiB)
	e.submit(update)
	for i, req := range clones {
		req.Volume = string(rune('x'+i)) + req.Volume
		a.do(req)
	}
	total(b, 0)
	b.sees(dataset.PoolStatus{ID: b.pools[0].ID, Reason: "its disk is absent"})
	a.create("same", "from=small") // it has what its source has
	for _, name := range []string{"db", "small", "xcopy", "ycopy"} {
		if v := e.volume(name); len(v.Copies) != 1 {
			t.Errorf("%s has copies %v", name, v.Copies)
		}
	}
	e.check()
}
