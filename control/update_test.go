package control

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func TestResize(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db@gold")
	a.create("plain", "pool=plain")
	resize := func(v, size string) api.Request {
		return api.Request{Kind: dataset.OpResize, Volume: v, Size: size}
	}
	a.planned(resize("db", "10GiB"), dataset.ErrUnsupported, "10GiB is smaller than its 20GiB, and its filesystem cannot be made smaller (drover volume export db | drover volume import NEW@gold -o size=10GiB --from - makes another)")
	a.planned(resize("db", "10"), dataset.ErrInvalid, "10GiB")
	a.planned(resize("db", ""), dataset.ErrInvalid)
	a.planned(resize("plain", "10GiB"), dataset.ErrUnsupported, "pool plain cannot give it size 10GiB: it cannot enforce a size")
	a.planned(resize("nothing", "10GiB"), dataset.ErrNotFound)
	op := a.plan(resize("db", "25GB"))
	if op.Kind != dataset.OpResize || op.Dataset.Size != 25e9 || op.Dataset.Profile.Size != 25e9 {
		t.Errorf("%+v", op.Dataset)
	}
	op.Dataset.Size += 2048 // rounded up
	for range 2 {
		if d := a.commit(op).Dataset; d.Size != 25e9+2048 || d.Profile.Size != 25e9 {
			t.Errorf("%+v", d)
		}
	}
	if p, err := e.Plan(e.ctx, a.id, resize("db", "25GB")); err != nil || p.Done == nil {
		t.Errorf("asked again: %+v, %v", p, err)
	}
	e.check()
}

// What changed between the plan and the report of a resize stays.
func TestResizeKeepsOtherChanges(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db@silver")
	op := a.plan(api.Request{Kind: dataset.OpResize, Volume: "db", Size: "30GiB"})
	e.submit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: yes()})
	e.submit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "bronze"})
	s := a.snapshot("db", "")
	d := a.commit(op).Dataset
	if d.Size != 30*dataset.GiB || d.Profile.Size != d.Size || !d.Protected || d.Profile.Name != "bronze" || d.Latest != s.ID {
		t.Errorf("%+v", d)
	}
}

func TestSetProfile(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	d := a.create("db@silver", "owner=5:5")
	set := func(p string) api.Request {
		return api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Profile: p}
	}
	refuse := func(req api.Request, kind *dataset.Kind, parts ...string) {
		t.Helper()
		_, err := e.Submit(e.ctx, req)
		refused(t, err, kind, parts...)
	}
	if out := e.submit(set("silver")); out.Operation != nil || out.Volume.ID != d.ID {
		t.Errorf("the one it has: %+v", out)
	}
	out := e.submit(set("fleeting")) // promises less: the size stays, and is seen
	if out.Operation.State != dataset.OpDone || out.Volume.Profile.Name != "fleeting" || out.Volume.Size != 10*dataset.GiB || out.Volume.Profile.OnDelete.Mode != dataset.DeletePurge {
		t.Errorf("%+v", out.Volume)
	}
	if o := out.Volume.Profile.Owner; o == nil || o.UID != 5 {
		t.Errorf("the root's owner is %+v, which no profile changes", o)
	}
	refuse(set("gold"), dataset.ErrInvalid, `volume db: profile gold wants filesystem xfs`, "that its pool chose")
	refuse(set("glod"), dataset.ErrInvalid, "unknown profile")
	both := set("silver")
	both.Protect = yes()
	refuse(both, dataset.ErrInvalid, "one, then the other")
	refuse(api.Request{Kind: dataset.OpUpdate, Volume: "db"}, dataset.ErrInvalid, "nothing to change")
	refuse(api.Request{Kind: dataset.OpUpdate, Volume: "nothing", Profile: "gold"}, dataset.ErrNotFound)

	// The same profile after the file was edited.
	p := e.profiles.byName["fleeting"]
	p.Revision, p.Description = "r2", "edited"
	e.profiles.byName["fleeting"] = p
	if v := e.volume("db"); v.Profile.Description != "" {
		t.Error("editing the file changed a volume")
	}
	if out := e.submit(set("fleeting")); out.Volume.Profile.Description != "edited" {
		t.Errorf("%+v", out.Volume.Profile)
	}
	e.check()
}

// What was asked for stays on record beside what the backend rounded it up to.
func TestSizeAskedForStays(t *testing.T) {
	const asked, rounded = 50e9, 50000003072
	e := newEnv(t)
	a := e.agent("alpha")
	op := a.plan(create("db", "size=50GB"))
	op.Dataset.Size = rounded
	a.commit(op)
	d := a.create("copy", "from=db")
	if d.Size != rounded || d.Profile.Size != asked {
		t.Errorf("a clone has %d, asked for as %d", d.Size, d.Profile.Size)
	}
	v := e.submit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "silver"}).Volume
	if v.Size != rounded || v.Profile.Size != asked {
		t.Errorf("with a profile of less it has %d, asked for as %d", v.Size, v.Profile.Size)
	}
	a.planned(api.Request{Kind: dataset.OpResize, Volume: "db", Size: "40GB"}, dataset.ErrUnsupported, "size 40GB is smaller than its 50GB")
	a.planned(create("small", "from=db", "size=40GB"), dataset.ErrInvalid, "size 40GB is smaller than its source's 50GB")
	e.check()
}

// A profile that promises a larger size is set together with the size, by the
// agent; a protection that comes meanwhile stays.
func TestSetProfileThatGrows(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db@silver", "fs=xfs")
	req := api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Profile: "gold"}
	out := e.submit(req)
	if out.Operation.Kind != dataset.OpResize || out.Operation.State != dataset.OpPending || out.Volume != nil {
		t.Fatalf("%+v", out.Operation)
	}
	if again := e.submit(req); again.Operation.ID != req.ID {
		t.Errorf("asked again: %+v", again.Operation)
	}
	e.submit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: yes()})
	if v := e.volume("db"); v.Profile.Name != "silver" {
		t.Error("set before its size was")
	}
	a.work()
	v := e.volume("db")
	if v.Profile.Name != "gold" || v.Size != 20*dataset.GiB || v.Profile.Size != v.Size || !v.Protected || v.Profile.Snapshots.Schedule == "" {
		t.Errorf("%+v", v.Dataset)
	}
	a.create("plain", "pool=plain")
	_, err := e.Submit(e.ctx, api.Request{Kind: dataset.OpUpdate, Volume: "plain", Profile: "silver"})
	refused(t, err, dataset.ErrUnsupported, "pool plain cannot keep profile silver: it cannot enforce a size")
	e.check()
}

// A profile that promises less makes a volume smaller where its pool can; what was rounded up to it,
// or a profile without a size, changes nothing.
func TestSetProfileThatShrinks(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.pools[0].Capabilities.Shrink = true
	a.register("alpha")
	a.create("db@silver", "size=30GiB", "fs=xfs")
	set := func(p string) dataset.Operation {
		return *e.submit(api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Profile: p}).Operation
	}
	if op := set("gold"); op.Kind != dataset.OpResize || op.State != dataset.OpPending {
		t.Fatalf("%+v", op)
	}
	if v := e.volume("db"); v.Size != 30*dataset.GiB || v.Profile.Name != "silver" {
		t.Errorf("set before its size was: %+v", v.Dataset)
	}
	a.work()
	if v := e.volume("db"); v.Profile.Name != "gold" || v.Size != 20*dataset.GiB || v.Profile.Size != v.Size {
		t.Errorf("%+v", v.Dataset)
	}
	e.submit(api.Request{ID: uuid.New(), Kind: dataset.OpResize, Volume: "db", Size: "30GiB"})
	a.work()
	p := e.profiles.byName["gold"]
	p.Revision = "r1b"
	e.profiles.byName["gold"] = p
	if op := set("gold"); op.Kind != dataset.OpUpdate || e.volume("db").Size != 30*dataset.GiB || e.volume("db").Profile.Revision != "r1b" {
		t.Errorf("its own again, after it was made larger: %+v, %+v", op, e.volume("db").Dataset)
	}
	e.submit(api.Request{ID: uuid.New(), Kind: dataset.OpResize, Volume: "db", Size: "20GiB"})
	a.work()
	p.Revision, p.Size = "r2", 20*dataset.GiB-2048
	e.profiles.byName["gold"] = p
	if op := set("gold"); op.Kind != dataset.OpUpdate || e.volume("db").Size != 20*dataset.GiB {
		t.Errorf("rounded up: %+v", op)
	}
	p.Revision, p.Size = "r3", 0
	e.profiles.byName["gold"] = p
	if op := set("gold"); op.Kind != dataset.OpUpdate || e.volume("db").Size != 20*dataset.GiB {
		t.Errorf("without a size: %+v", op)
	}
	e.check()
}
