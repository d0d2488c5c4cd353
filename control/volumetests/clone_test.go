package volume_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// The present name of an adopted pool differs from the name in the profiles of its datasets. The datasets can be
// cloned nevertheless.
func TestCloneOnAPoolOfAnotherName(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db", "pool=fast")
	a.LocalPools[0].Name = "adopted"
	a.MustRegister("alpha")
	if c := a.MustCreate("copy", "from=db"); c.Pool != a.LocalPools[0].ID {
		t.Errorf("%+v", c)
	}
	_, err := e.Plan(e.Ctx, a.ID, controltest.Create("other", "from=db", "pool=fast"))
	controltest.Refused(t, err, dataset.ErrUnsupported, "pool fast")
}

func TestCloneOfSnapshot(t *testing.T) {
	e, a := controltest.OneNode(t)
	db := a.MustCreate("db@gold", "label.a=1", "protect=true")
	s := a.MustSnapshot("db", "nightly")
	e.MustSubmit(api.Request{Kind: dataset.OpResize, Volume: "db", Size: "40GiB"})
	a.DoWork()
	for _, prefix := range []string{s.ID.String(), s.ID.String()[:8], strings.ToUpper(s.ID.String()[:9])} {
		op := a.MustPlan(controltest.Create("test@snapshot-" + prefix))
		d := op.DatasetRecord
		if op.Kind != dataset.OpCreate || *op.Source != (dataset.Source{Dataset: db.ID, Snapshot: s.ID}) ||
			*d.Origin != (dataset.Origin{Dataset: db.ID, Snapshot: s.ID}) {
			t.Errorf("%s: source %+v, origin %+v", prefix, op.Source, d.Origin)
		}
		if d.Home != a.ID || d.Pool != db.Pool || d.Size != 20*dataset.GiB || d.Profile.Name != "gold" || d.Protected || d.Labels != nil {
			t.Errorf("%s: %+v", prefix, d)
		}
	}
}

func TestCloneOfDataset(t *testing.T) {
	_, a := controltest.OneNode(t)
	db := a.MustCreate("db@silver")
	for _, req := range []api.Request{
		controltest.Create("test@snapshot-" + db.ID.String()[:8]), controltest.Create("test", "from=db"), controltest.Create("test", "from="+strings.ToUpper(db.ID.String()[:8])),
		{Kind: dataset.OpClone, Volume: "test", Options: map[string]string{"from": "db"}},
	} {
		op := a.MustPlan(req)
		if *op.Source != (dataset.Source{Dataset: db.ID}) || !op.DatasetRecord.Origin.Implicit || op.DatasetRecord.Origin.Snapshot == uuid.Nil || op.Kind != req.Kind {
			t.Errorf("%v: source %+v, origin %+v", req.Options, op.Source, op.DatasetRecord.Origin)
		}
	}
}

func TestCloneWithOptions(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@gold")
	a.MustCreate("any@silver")
	a.MustCreate("plain@bronze", "pool=plain")
	pinned := e.ProfileSet.ByName["bronze"]
	pinned.Name, pinned.Pool = "pinned", "plain"
	e.ProfileSet.ByName["pinned"] = pinned
	snap := a.MustSnapshot("db", "").ID.String()[:8]
	trashed := a.MustCreate("trashed@gold")
	a.MustDo(api.Request{Kind: dataset.OpDelete, Volume: "trashed"})
	d := a.MustPlan(controltest.Create("test@silver", "from=db", "size=40GiB", "label.x=y", "readonly=true", "protect=true")).DatasetRecord
	if d.Profile.Name != "silver" || d.Size != 40*dataset.GiB || d.Profile.Size != d.Size || d.Profile.Filesystem.Type != "xfs" ||
		d.Labels["x"] != "y" || !d.ReadOnly || !d.Protected {
		t.Errorf("%+v", d)
	}
	if d := a.MustPlan(controltest.Create("test@silver", "from=db")).DatasetRecord; d.Size != 20*dataset.GiB || d.Profile.Size != d.Size {
		t.Errorf("a profile that promises less made it smaller: %+v", d)
	}
	if d := a.MustPlan(controltest.Create("test", "from=db", "fs=xfs", "size=20GiB")).DatasetRecord; d.Size != 20*dataset.GiB {
		t.Errorf("%+v", d)
	}
	for _, c := range []struct {
		req   api.Request
		kind  *dataset.Kind
		parts []string
	}{
		{controltest.Create("test", "from=db", "owner=5:6"), dataset.ErrInvalid, []string{"a clone has the owner and mode of its source"}},
		{controltest.Create("test@snapshot-abcd", "mode=0700"), dataset.ErrInvalid, []string{"a clone has the owner and mode of its source"}},
		{api.Request{Kind: dataset.OpImport, Volume: "test", Path: "/srv", Options: map[string]string{"owner": "5:6"}}, dataset.ErrInvalid, []string{"an import has the owner and mode"}},
		{controltest.Create("test", "from=db", "fs=ext4"), dataset.ErrInvalid, []string{"filesystem of its source", "xfs", "ext4"}},
		{controltest.Create("test", "from=any", "fs=xfs"), dataset.ErrInvalid, []string{"that its pool chose"}},
		{controltest.Create("test@gold", "from=any"), dataset.ErrInvalid, []string{"profile gold requires filesystem xfs", `"test"`}},
		{controltest.Create("test", "from=db", "size=1GiB"), dataset.ErrInvalid, []string{"1GiB is smaller than the size 20GiB"}},
		{controltest.Create("test", "from=db", "pool=plain"), dataset.ErrUnsupported, []string{"a clone shares the blocks of its source, and stays in pool fast of db, but pool plain was requested (for a full copy there: drover volume export db | drover volume import test -o pool=plain --from -)"}},
		{controltest.Create("test@pinned", "from=db"), dataset.ErrUnsupported, []string{"stays in pool fast of db, but pool plain was requested (for a full copy there: drover volume export db | drover volume import test@pinned --from -)"}},
		{controltest.Create("test@pinned", "from="+snap), dataset.ErrUnsupported, []string{"drover volume export db --snapshot " + snap + " | drover volume import test@pinned --from -)"}},
		{controltest.Create("test@pinned", "from=trashed"), dataset.ErrNotFound, []string{"trashed"}},
		{controltest.Create("test@pinned", "from="+trashed.ID.String()), dataset.ErrUnsupported, []string{"stays in pool fast of trashed, but pool plain was requested (choose another profile)"}},
		{controltest.Create("test", "pool=plain", "from="+trashed.ID.String()), dataset.ErrUnsupported, []string{"but pool plain was requested (omit the pool)"}},
		{controltest.Create("test", "from=plain", "size=1GiB"), dataset.ErrUnsupported, []string{"cannot enforce a size"}},
		{controltest.Create("test@silver", "from=plain"), dataset.ErrUnsupported, []string{"cannot enforce a size"}},
		{controltest.Create("test", "from=db", "profile=glod"), dataset.ErrInvalid, []string{"unknown profile"}},
	} {
		a.MustRefusePlan(c.req, c.kind, c.parts...)
	}
}

// A snapshot has a name only within its volume, so VOLUME@SNAPSHOT names the source of a clone.
func TestCloneOfNamedSnapshot(t *testing.T) {
	e, a := controltest.OneNode(t)
	db, web := a.MustCreate("db@silver"), a.MustCreate("web@silver")
	one, two := a.MustSnapshot("db", "before"), a.MustSnapshot("web", "2026-03-01")
	both := a.MustSnapshot("web", "silver")
	marked := a.MustSnapshot("db", "snapshot-before")
	shadow := a.MustSnapshot("db", two.ID.String()[:8]) // has the UUID prefix of another snapshot as its name
	asPrefix := a.MustSnapshot("web", one.ID.String()[:4])
	only := a.MustSnapshot("web", "snapshot-daily")
	for from, want := range map[string]dataset.Source{
		"db@before":                                {Dataset: db.ID, Snapshot: one.ID},
		"db@snapshot-before":                       {Dataset: db.ID, Snapshot: marked.ID},
		"web@snapshot-2026-03-01":                  {Dataset: web.ID, Snapshot: two.ID},
		"web@snapshot-daily":                       {Dataset: web.ID, Snapshot: only.ID},
		"db@snapshot-" + two.ID.String()[:8]:       {Dataset: db.ID, Snapshot: shadow.ID},
		"web@snapshot-" + asPrefix.ID.String()[:8]: {Dataset: web.ID, Snapshot: asPrefix.ID},
		"db@" + one.ID.String()[:8]:                {Dataset: db.ID, Snapshot: one.ID},
		"web@2026-03-01":                           {Dataset: web.ID, Snapshot: two.ID},
		"db@silver":                                {Dataset: db.ID},
	} {
		if op := a.MustPlan(controltest.Create("test", "from="+from)); *op.Source != want {
			t.Errorf("%s: %+v, want %+v", from, *op.Source, want)
		}
	}
	a.MustDo(controltest.Create("c1", "from=db@before"))
	if p, err := e.Plan(e.Ctx, a.ID, controltest.Create("c1", "from=db@before")); err != nil || p.Unchanged == nil {
		t.Errorf("asked again: %+v, %v", p, err)
	}
	for _, c := range []struct {
		req  api.Request
		kind *dataset.Kind
		says string
	}{
		{controltest.Create("test", "from=before"), dataset.ErrNotFound, `no volume, snapshot or dataset "before"; snapshots of this name: db@before`},
		{controltest.Create("test", "from=2026-03-01"), dataset.ErrNotFound, `snapshots of this name: web@2026-03-01`},
		{controltest.Create("test@snapshot-2026-03-01"), dataset.ErrNotFound, `snapshots of this name: @snapshot-` + two.ID.String()[:8] + " (of volume web)"},
		{controltest.Create("test@before"), dataset.ErrInvalid, `unknown profile "before" (available: bronze, fleeting, gold, kept, silver); snapshots of this name: test@snapshot-` + one.ID.String()[:8] + " (of volume db)"},
		{controltest.Create("test@snapshot-before"), dataset.ErrInvalid, `bad UUID prefix "before": expected 4 to 36 characters of a snapshot's or dataset's UUID (hex digits and '-'; drover snapshot ls and volume ls show them); snapshots of this name: test@snapshot-` + one.ID.String()[:8] + " (of volume db)"},
		{controltest.Create("test", "from=db@weekly"), dataset.ErrNotFound, `volume db has no snapshot "weekly" (drover snapshot ls db lists its snapshots; its profile is silver)`},
		{controltest.Create("test", "from=nothing@before"), dataset.ErrNotFound, `no volume, snapshot or dataset "nothing@before"`},
		{controltest.Create("test", "from=web@silver"), dataset.ErrAmbiguous, "web@silver is both the volume with its profile and a snapshot (use web for the volume, " + both.ID.String()[:8] + " for the snapshot)"},
	} {
		a.MustRefusePlan(c.req, c.kind, c.says)
	}
}

// A repeated request with the same name and source returns the existing volume. Another source is refused, and a
// source that was removed is still recognized by its prefix.
func TestCloneThatExists(t *testing.T) {
	e, a := controltest.OneNode(t)
	db, other := a.MustCreate("db@silver"), a.MustCreate("other@silver")
	s, s2 := a.MustSnapshot("db", ""), a.MustSnapshot("db", "")
	ofSnap, ofData, byName := "c1@snapshot-"+s.ID.String()[:8], "c2@snapshot-"+db.ID.String()[:8], controltest.Create("c3", "from=other")
	a.MustCreate(ofSnap)
	a.MustCreate(ofData)
	a.MustDo(byName)
	a.MustSnapshot("c1", "")
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "c2", Protect: controltest.Yes()})

	done := func(reqs ...api.Request) {
		t.Helper()
		for _, req := range reqs {
			if p, err := e.Plan(e.Ctx, a.ID, req); err != nil || p.Unchanged == nil {
				t.Errorf("%s %v: %+v, %v", req.Volume, req.Options, p, err)
			}
		}
	}
	same := []api.Request{
		controltest.Create(ofSnap), controltest.Create("c1", "from="+s.ID.String()), controltest.Create("c1@SNAPSHOT-" + strings.ToUpper(s.ID.String())),
		controltest.Create("c1"), controltest.Create(ofData), controltest.Create("c2", "from="+db.ID.String()[:13]),
	}
	done(same...)
	done(controltest.Create("c2", "from=db"), byName)
	for _, req := range []api.Request{
		controltest.Create("c1@snapshot-" + s2.ID.String()), controltest.Create("c1@snapshot-" + db.ID.String()), controltest.Create("c1", "from=db"),
		controltest.Create("c2@snapshot-" + other.ID.String()), controltest.Create("c2@snapshot-" + s.ID.String()), controltest.Create("c3", "from=db"),
		controltest.Create("db@snapshot-" + other.ID.String()), controltest.Create("c1@snapshot-00000000"),
	} {
		a.MustRefusePlan(req, dataset.ErrExists, "exists")
	}

	// The sources go to the trash, and are then destroyed.
	a.MustDo(api.Request{Kind: dataset.OpSnapshotDelete, Snapshot: s.ID.String()})
	a.MustDelete("db")
	a.MustDelete("other")
	done(same...)
	done(byName)
	for _, d := range []dataset.Dataset{db, other} {
		e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()})
	}
	a.DoWork()
	done(same...)
	a.MustRefusePlan(byName, dataset.ErrExists, "is a clone of dataset "+other.ID.String(), "other")
	// A different volume with the same name is the source of the clone.
	a.MustCreate("other")
	a.MustRefusePlan(byName, dataset.ErrExists)
	e.CheckInvariants()
}

// A prefix that is ambiguous now, but identified one source when the clone was made, still does so for the clone.
func TestCloneThatExistsByPrefixOfMore(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.CreateVolumeWithID("db", "abcd0000-0000-4000-8000-000000000001")
	a.MustCreate("test@snapshot-abcd")
	a.CreateVolumeWithID("db2", "abcd0000-0000-4000-8000-000000000002")
	if p, err := e.Plan(e.Ctx, a.ID, controltest.Create("test@snapshot-abcd")); err != nil || p.Unchanged == nil {
		t.Errorf("%+v, %v", p, err)
	}
	a.MustRefusePlan(controltest.Create("test2@snapshot-abcd"), dataset.ErrAmbiguous, "dataset abcd0000-0000-4000-8000-000000000001 (db)", "(db2)", "use more")
	a.MustCreate("test3@snapshot-abcd0000-0000-4000-8000-000000000002")
	a.MustRefusePlan(controltest.Create("test3@snapshot-abcd0000-0000-4000-8000-000000000001"), dataset.ErrExists)
}

func TestCloneFromTrash(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@silver")
	s := a.MustSnapshot("db", "")
	d := a.MustDelete("db")
	a.MustCreate("c1@snapshot-" + d.ID.String()[:8])
	a.MustCreate("c2@snapshot-" + s.ID.String()[:8])
	a.MustRefusePlan(controltest.Create("c3", "from=db"), dataset.ErrNotFound)
	e.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()})
	a.MustRefusePlan(controltest.Create("c3@snapshot-"+d.ID.String()[:8]), dataset.ErrNotFound)
	a.MustRefusePlan(controltest.Create("c3@snapshot-"+s.ID.String()[:8]), dataset.ErrNotFound)
	a.DoWork()
	e.CheckInvariants()
}

// A clone has the profile of its source, but no snapshots and backups are made on its schedules, unless somebody asks
// for them or names the profile. set-profile with the same profile turns them on.
func TestCloneInheritsNoSchedules(t *testing.T) {
	e, a := controltest.OneNode(t)
	if p := a.MustCreate("db@gold").Profile; p.Snapshots.Schedule == "" || p.SchedulesOff {
		t.Fatalf("the source has no schedule: %+v", p)
	}
	for req, off := range map[string]bool{
		"from=db": true, "from=db schedules=true": false, "from=db profile=gold": false,
		"from=db profile=gold schedules=false": true, "profile=gold schedules=false": true, "profile=gold": false,
	} {
		p := a.MustPlan(controltest.Create("copy", strings.Fields(req)...)).DatasetRecord.Profile
		if p.Name != "gold" || p.SchedulesOff != off || p.HasSchedules() == off {
			t.Errorf("%s: %+v", req, p)
		}
	}
	a.MustCreate("copy", "from=db")
	p := a.MustPlan(controltest.Create("third", "from=copy", "schedules=true")).DatasetRecord.Profile
	if p.SchedulesOff || !p.HasSchedules() {
		t.Errorf("a clone of a clone: %+v", p)
	}
	_, err := e.Plan(e.Ctx, a.ID, controltest.Create("copy", "from=db", "schedules=true"))
	controltest.Refused(t, err, dataset.ErrExists, "drover volume set-profile copy gold")
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "copy", Profile: "gold"})
	if v := e.MustVolume("copy"); v.Profile.SchedulesOff || !v.Profile.HasSchedules() || v.ScheduleSince.IsZero() {
		t.Errorf("after set-profile: %+v, since %v", v.Profile, v.ScheduleSince)
	}
}

// Option node is about the creation. An engine repeats it for a volume that was moved since; a person who requests an
// existing volume on another node is told where the volume is.
func TestChosenNodeOfExistingVolume(t *testing.T) {
	e, a := controltest.OneNode(t)
	e.NewAgent("beta")
	id := a.MustCreate("db@gold").ID
	req := controltest.Create("db@gold", "node=beta")
	a.MustRefusePlan(req, dataset.ErrExists, `volume "db" exists on node alpha, not beta (drover volume move db beta)`)
	a.MustRefusePlan(controltest.Create("db@gold", "node=gamma"), dataset.ErrInvalid, `unknown node "gamma"`)
	same := controltest.Create("db@gold", "node=alpha")
	req.Engine = true // an engine, with another node
	for _, r := range []api.Request{req, same} {
		if p, err := e.Plan(e.Ctx, a.ID, r); err != nil || p.Unchanged == nil || p.Unchanged.ID != id {
			t.Errorf("%+v: %+v, %v", r, p, err)
		}
	}
}

// A clone is created beside its source, and an import beside its files.
func TestChosenNodeOfCopies(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	a.MustCreate("db@gold")
	a.MustRefusePlan(controltest.Create("copy", "from=db", "node=beta"), dataset.ErrUnsupported,
		"a clone shares the blocks of its source on node alpha, and cannot be created on node beta",
		"drover volume move copy beta")
	if op := a.MustPlan(controltest.Create("copy", "from=db", "node=alpha")); op.Node != a.ID {
		t.Errorf("%+v", op)
	}
	req := controltest.Create("files", "node=beta")
	req.Kind, req.Path = dataset.OpImport, "/srv/x"
	a.MustRefusePlan(req, dataset.ErrUnsupported, "on the node that reads the files, not on node beta",
		"drover volume move files beta")
	restore := controltest.Create("restored", "node=beta")
	restore.Kind, restore.Repository, restore.Backup = dataset.OpImport, "offsite", strings.Repeat("5f", 32)
	controltest.AddRepository(e, "offsite")
	if op := a.MustPlan(restore); op.Node != b.ID {
		t.Errorf("%+v", op)
	}
	req.Options["node"] = "alpha"
	if op := a.MustPlan(req); op.Node != a.ID {
		t.Errorf("%+v", op)
	}
}

// A volume that is restored from the trash counts for the policy of its pool again, so it is refused as a new volume of
// the same size would be.
func TestUndeleteObeysOvercommit(t *testing.T) {
	for name, c := range map[string]struct {
		size        string
		overcommit  float64
		provisioned dataset.Size // as the agent reports it after the deletion
		wait        time.Duration
		refused     bool
	}{
		"it fits":                     {"20GiB", 1, 80 * dataset.GiB, time.Minute, false},
		"it exceeds the policy":       {"20GiB", 1, 90 * dataset.GiB, time.Minute, true},
		"the pool has no policy":      {"20GiB", 0, 90 * dataset.GiB, time.Minute, false},
		"it has no size":              {"", 1, 100 * dataset.GiB, time.Minute, false},
		"the report counts it still":  {"60GiB", 1, 60 * dataset.GiB, 0, false},
		"others use it meanwhile too": {"60GiB", 1, 110 * dataset.GiB, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			e, a := controltest.OneNode(t)
			req := controltest.Create("db@bronze") // a profile without a size
			if c.size != "" {
				req.Options = map[string]string{"size": c.size}
			}
			d := *a.MustDo(req).Dataset
			report := func() {
				a.ReportPool(dataset.PoolStatus{
					ID: d.Pool, Online: true, Size: 100 * dataset.GiB, Free: 90 * dataset.GiB, DefaultSize: 10 * dataset.GiB,
					Provisioned: c.provisioned, Overcommit: c.overcommit,
				})
			}
			report()
			e.Clock.Advance(time.Second)
			a.MustDelete("db")
			if c.wait > 0 {
				e.Clock.Advance(c.wait)
				report()
			}
			for _, dry := range []bool{true, false} {
				req := api.Request{Kind: dataset.OpUndelete, Volume: "db", Name: "back", DryRun: dry}
				if c.refused {
					e.MustRefuse(req, dataset.ErrUnsupported, "volume db", "overcommit of 1", "drover pool set")
				} else {
					e.MustSubmit(req)
				}
			}
			e.CheckInvariants()
		})
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
