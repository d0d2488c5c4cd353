package volume_test

import (
	"cmp"
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

func TestResize(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@gold")
	a.MustCreate("plain", "pool=plain")
	resize := func(v, size string) api.Request {
		return api.Request{Kind: dataset.OpResize, Volume: v, Size: size}
	}
	a.MustRefusePlan(resize("db", "10GiB"), dataset.ErrUnsupported, "10GiB is smaller than its 20GiB, and its filesystem cannot shrink (drover volume export db | drover volume import NEW@gold -o size=10GiB --from - creates another)")
	a.MustRefusePlan(resize("db", "10"), dataset.ErrInvalid, "10GiB")
	a.MustRefusePlan(resize("db", ""), dataset.ErrInvalid)
	a.MustRefusePlan(resize("plain", "10GiB"), dataset.ErrUnsupported, "pool plain cannot change its size to 10GiB: it cannot enforce a size")
	a.MustRefusePlan(resize("nothing", "10GiB"), dataset.ErrNotFound)
	op := a.MustPlan(resize("db", "25GB"))
	if op.Kind != dataset.OpResize || op.DatasetRecord.Size != 25e9 || op.DatasetRecord.Profile.Size != 25e9 {
		t.Errorf("%+v", op.DatasetRecord)
	}
	for range 2 {
		if d := a.MustCommit(op).Dataset; d.Size != 25e9 || d.Profile.Size != 25e9 {
			t.Errorf("%+v", d)
		}
	}
	if p, err := e.Plan(e.Ctx, a.ID, resize("db", "25GB")); err != nil || p.Unchanged == nil {
		t.Errorf("asked again: %+v, %v", p, err)
	}
	e.CheckInvariants()
}

// A change between the plan and the report of a resize is kept.
func TestResizeKeepsOtherChanges(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@silver")
	op := a.MustPlan(api.Request{Kind: dataset.OpResize, Volume: "db", Size: "30GiB"})
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: controltest.Yes()})
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "bronze"})
	s := a.MustSnapshot("db", "")
	d := a.MustCommit(op).Dataset
	if d.Size != 30*dataset.GiB || d.Profile.Size != d.Size || !d.Protected || d.Profile.Name != "bronze" || d.HeadParent != s.ID {
		t.Errorf("%+v", d)
	}
}

func TestSetProfile(t *testing.T) {
	e, a := controltest.OneNode(t)
	d := a.MustCreate("db@silver", "owner=5:5")
	set := func(p string) api.Request {
		return api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Profile: p}
	}
	refuse := func(req api.Request, kind *dataset.Kind, parts ...string) {
		t.Helper()
		e.MustRefuse(req, kind, parts...)
	}
	if out := e.MustSubmit(set("silver")); out.Operation != nil || out.Volume.ID != d.ID {
		t.Errorf("the profile that it already has: %+v", out)
	}
	out := e.MustSubmit(set("fleeting")) // it promises less: the size stays, and is shown
	if out.Operation.State != dataset.OpDone || out.Volume.Profile.Name != "fleeting" || out.Volume.Size != 10*dataset.GiB || out.Volume.Profile.OnDelete.Mode != dataset.DeletePurge {
		t.Errorf("%+v", out.Volume)
	}
	if o := out.Volume.Profile.Owner; o == nil || o.UID != 5 {
		t.Errorf("the root's owner is %+v, which no profile changes", o)
	}
	refuse(set("glod"), dataset.ErrInvalid, "unknown profile")
	pinned := e.ProfileSet.ByName["bronze"]
	pinned.Name, pinned.Pool = "pinned", "plain"
	e.ProfileSet.ByName["pinned"] = pinned
	refuse(set("pinned"), dataset.ErrUnsupported, "volume db: profile pinned requires pool plain, and a volume stays in its pool, here fast (for a full copy there: drover volume export db | drover volume import NEW@pinned --from -)")
	refuse(set("gold"), dataset.ErrInvalid, "volume db: profile gold requires filesystem xfs, but volume db has the filesystem that its pool chose (for a full copy with this profile: drover volume export db | drover volume import NEW@gold --from -)")
	small := e.ProfileSet.ByName["gold"]
	small.Name, small.Size = "small", dataset.GiB
	e.ProfileSet.ByName["small"] = small
	refuse(set("small"), dataset.ErrInvalid, "drover volume export db | drover volume import NEW@small -o size=10GiB --from -")
	both := set("silver")
	both.Protect = controltest.Yes()
	refuse(both, dataset.ErrInvalid, "one, then the other")
	refuse(api.Request{Kind: dataset.OpUpdate, Volume: "db"}, dataset.ErrInvalid, "nothing to change")
	refuse(api.Request{Kind: dataset.OpUpdate, Volume: "nothing", Profile: "gold"}, dataset.ErrNotFound)

	// The same profile, after the file was edited.
	p := e.ProfileSet.ByName["fleeting"]
	p.Revision, p.Description = "r2", "edited"
	e.ProfileSet.ByName["fleeting"] = p
	if v := e.MustVolume("db"); v.Profile.Description != "" {
		t.Error("editing the file changed a volume")
	}
	if out := e.MustSubmit(set("fleeting")); out.Volume.Profile.Description != "edited" {
		t.Errorf("%+v", out.Volume.Profile)
	}
	e.CheckInvariants()
}

// A volume keeps its size with a profile that has a smaller one, and a clone of it has the same size.
func TestLargerSizeStays(t *testing.T) {
	const size = 50e9
	e, a := controltest.OneNode(t)
	a.MustCreate("db", "size=50GB")
	d := a.MustCreate("copy", "from=db", "size=50GB")
	if d.Size != size || d.Profile.Size != size {
		t.Errorf("a clone has %d, and %d in its profile", d.Size, d.Profile.Size)
	}
	v := e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "silver"}).Volume
	if v.Size != size || v.Profile.Size != size {
		t.Errorf("with a profile of less it has %d, and %d in its profile", v.Size, v.Profile.Size)
	}
	a.MustRefusePlan(api.Request{Kind: dataset.OpResize, Volume: "db", Size: "40GB"}, dataset.ErrUnsupported, "size 40GB is smaller than its 50GB")
	a.MustRefusePlan(controltest.Create("small", "from=db", "size=40GB"), dataset.ErrInvalid, "size 40GB is smaller than the size 50GB")
	e.CheckInvariants()
}

// A profile that promises a larger size is set by the agent together with the size. A protection that is set
// meanwhile is kept.
func TestSetProfileThatGrows(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@silver", "fs=xfs")
	req := api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Profile: "gold"}
	out := e.MustSubmit(req)
	if out.Operation.Kind != dataset.OpResize || out.Operation.State != dataset.OpPending || out.Volume != nil {
		t.Fatalf("%+v", out.Operation)
	}
	if again := e.MustSubmit(req); again.Operation.ID != req.ID {
		t.Errorf("asked again: %+v", again.Operation)
	}
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: controltest.Yes()})
	if v := e.MustVolume("db"); v.Profile.Name != "silver" {
		t.Error("set before its size was")
	}
	a.DoWork()
	v := e.MustVolume("db")
	if v.Profile.Name != "gold" || v.Size != 20*dataset.GiB || v.Profile.Size != v.Size || !v.Protected || v.Profile.Snapshots.Schedule == "" {
		t.Errorf("%+v", v.Dataset)
	}
	a.MustCreate("plain", "pool=plain")
	e.MustRefuse(api.Request{Kind: dataset.OpUpdate, Volume: "plain", Profile: "silver"}, dataset.ErrUnsupported, "pool plain cannot satisfy profile silver: it cannot "+
		"enforce a size")
	e.CheckInvariants()
}

// A profile that promises less makes a volume smaller if its pool can shrink it. A size that was rounded up to the
// promised one, or a profile without a size, changes nothing.
func TestSetProfileThatShrinks(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.LocalPools[0].Capabilities.Shrink = true
	a.MustRegister("alpha")
	a.MustCreate("db@silver", "size=30GiB", "fs=xfs")
	set := func(p string) dataset.Operation {
		return *e.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Profile: p}).Operation
	}
	if op := set("gold"); op.Kind != dataset.OpResize || op.State != dataset.OpPending {
		t.Fatalf("%+v", op)
	}
	if v := e.MustVolume("db"); v.Size != 30*dataset.GiB || v.Profile.Name != "silver" {
		t.Errorf("set before its size was: %+v", v.Dataset)
	}
	a.DoWork()
	if v := e.MustVolume("db"); v.Profile.Name != "gold" || v.Size != 20*dataset.GiB || v.Profile.Size != v.Size {
		t.Errorf("%+v", v.Dataset)
	}
	e.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpResize, Volume: "db", Size: "30GiB"})
	a.DoWork()
	p := e.ProfileSet.ByName["gold"]
	p.Revision = "r1b"
	e.ProfileSet.ByName["gold"] = p
	if op := set("gold"); op.Kind != dataset.OpUpdate || e.MustVolume("db").Size != 30*dataset.GiB || e.MustVolume("db").Profile.Revision != "r1b" {
		t.Errorf("its own profile again, after it was enlarged: %+v, %+v", op, e.MustVolume("db").Dataset)
	}
	e.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpResize, Volume: "db", Size: "20GiB"})
	a.DoWork()
	p.Revision, p.Size = "r2", 20*dataset.GiB-2048
	e.ProfileSet.ByName["gold"] = p
	if op := set("gold"); op.Kind != dataset.OpUpdate || e.MustVolume("db").Size != 20*dataset.GiB {
		t.Errorf("rounded up: %+v", op)
	}
	p.Revision, p.Size = "r3", 0
	e.ProfileSet.ByName["gold"] = p
	if op := set("gold"); op.Kind != dataset.OpUpdate || e.MustVolume("db").Size != 20*dataset.GiB {
		t.Errorf("without a size: %+v", op)
	}
	e.CheckInvariants()
}

// Labels can be changed while the volume is mounted, and without another change. A failed change leaves them as they
// are.
func TestLabelVolume(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db", "label.tier=web", "label.owner=ann")
	label := func(set map[string]string, remove ...string) api.Request {
		return api.Request{Kind: dataset.OpUpdate, Volume: "db", Labels: &dataset.LabelChange{Set: set, Remove: remove}}
	}
	for range 2 {
		out := e.MustSubmit(label(map[string]string{"tier": "db"}))
		if out.Volume == nil || out.Volume.Labels["tier"] != "db" || out.Volume.Labels["owner"] != "ann" {
			t.Errorf("%+v", out.Volume)
		}
	}
	refused := func(req api.Request, kind *dataset.Kind, parts ...string) {
		t.Helper()
		e.MustRefuse(req, kind, parts...)
	}
	refused(label(map[string]string{"new": "1"}, "old"), dataset.ErrNotFound, `volume db has no label "old"`, "owner, tier")
	both := label(map[string]string{"new": "1"})
	both.Protect = controltest.Yes()
	refused(both, dataset.ErrInvalid, "labels cannot change together")
	if d := e.MustSubmit(label(nil, "tier", "owner")).Volume; d == nil || d.Labels != nil {
		t.Errorf("%+v", d)
	}
	e.CheckInvariants()
}

// TestSetProfileOnOvercommittedPool: a profile that does not change the size adds nothing to a pool.
func TestSetProfileOnOvercommittedPool(t *testing.T) {
	e, a := controltest.OneNode(t)
	req := controltest.Create("db@silver")
	req.Options = map[string]string{"size": "5GiB"} // less than the default size of the pool, which must not count
	d := *a.MustDo(req).Dataset
	a.ReportPool(dataset.PoolStatus{
		ID: d.Pool, Online: true, Size: 100 * dataset.GiB, Free: 90 * dataset.GiB, DefaultSize: 10 * dataset.GiB,
		Provisioned: 100 * dataset.GiB, Overcommit: 1,
	})
	a.MustRefusePlan(api.Request{Kind: dataset.OpResize, Volume: "db", Size: "30GiB"}, dataset.ErrUnsupported, "overcommit")
	out := e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "bronze"})
	if out.Volume == nil || out.Volume.Profile.Name != "bronze" {
		t.Errorf("set-profile to a profile without a size: %+v, want it accepted", out)
	}
}

// TestOperationsSayWhatTheyChange: the operation of each change of a record names the command, and what changed in the
// words of the event.
func TestOperationsSayWhatTheyChange(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@silver", "fs=xfs", "label.team=shop")
	id := e.MustVolume("db").ID.String()
	for _, c := range []struct {
		req                    api.Request
		action, change, detail string // detail is that of the event; empty: that of the operation
	}{
		{api.Request{Kind: dataset.OpUpdate, Protect: controltest.Yes()}, "protect", "protected", ""},
		{api.Request{Kind: dataset.OpUpdate, Protect: new(bool)}, "unprotect", "no longer protected", ""},
		{
			api.Request{Kind: dataset.OpUpdate, Labels: &dataset.LabelChange{
				Set: map[string]string{"env": "prod"}, Remove: []string{"team"},
			}},
			"label", "label env=prod; no label team", "",
		},
		{api.Request{Kind: dataset.OpUpdate, Profile: "bronze"}, "set-profile", "profile bronze, was silver", ""},
		{api.Request{Kind: dataset.OpUpdate, Profile: "gold"}, "set-profile", "size 20GiB, profile gold", ""},
		{api.Request{Kind: dataset.OpResize, Size: "30GiB"}, "resize", "size 30GiB", ""},
		{api.Request{Kind: dataset.OpRename, Name: "orders"}, "rename", "now orders", "was db"},
		{api.Request{Kind: dataset.OpDropAlias, Name: "db"}, "drop-alias", "no alias db", ""},
	} {
		c.req.Volume = id
		op := *e.MustSubmit(c.req).Operation
		a.DoWork()
		op, err := e.Operation(e.Ctx, op.ID.String(), 0)
		if err != nil || op.State != dataset.OpDone || op.Action() != c.action || op.Change != c.change {
			t.Errorf("%s: %v, state %s, action %q, change %q, want %q", c.action, err, op.State, op.Action(), op.Change,
				c.change)
		}
		var last api.Event
		e.OK(e.Events(e.Ctx, 0, false, func(ev api.Event) error { last = ev; return nil }))
		if want := cmp.Or(c.detail, c.change); last.Detail != want {
			t.Errorf("%s: the event says %q, want %q", c.action, last.Detail, want)
		}
	}
	e.CheckInvariants()
}

// copiesOf returns the kinds of the copies of a volume by the names of their nodes.
func copiesOf(e *controltest.Control, volume string) map[string]dataset.CopyKind {
	e.Helper()
	out := map[string]dataset.CopyKind{}
	for _, k := range e.MustVolume(volume).CopyDetails {
		out[k.NodeName] = k.Kind
	}
	e.CheckInvariants()
	return out
}

func setProfile(profile string) api.Request {
	return api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "db", Profile: profile}
}

// TestSetProfileAddsAndRemovesReplicas: a volume gets replicas with its profile. They are empty until their nodes have
// copied the data, and nothing continues from an empty one. A profile without replicas removes them, but not before
// the home reports that it is well.
func TestSetProfileAddsAndRemovesReplicas(t *testing.T) {
	for name, size := range map[string]dataset.Size{"same size": 10 * dataset.GiB, "larger": 20 * dataset.GiB} {
		t.Run(name, func(t *testing.T) {
			e := controltest.New(t)
			e.AddReplicaProfile(1)
			p := e.ProfileSet.ByName["safe"]
			p.Size = size
			e.ProfileSet.ByName["safe"] = p
			a, b := e.NewAgent("alpha"), e.NewAgent("beta")
			d := a.MustCreate("db@silver")
			e.MustSubmit(setProfile("safe"))
			a.DoWork() // the resize, if there is one
			v := e.MustVolume("db")
			if v.Profile.Name != "safe" || v.Home != a.ID || v.Epoch != d.Epoch || v.Size != size {
				t.Errorf("%+v", v.Dataset)
			}
			if got := copiesOf(e, "db"); len(got) != 1 || got["beta"] != dataset.CopyReplica {
				t.Fatalf("copies: %v", got)
			}
			e.MustRefuse(controltest.ForcedMove("db", "beta", "alpha"), dataset.ErrNotFound, "complete copy")
			b.ReportCopyTaken(d, controltest.Start)
			if k := e.MustVolume("db").CopyDetails[0]; k.Snapshot == uuid.Nil {
				t.Errorf("reported as complete: %+v", k)
			}

			a.ReportOpen(d, "it is not in the pool")
			e.MustSubmit(setProfile("silver"))
			if got := copiesOf(e, "db"); got["beta"] != dataset.CopyReplica {
				t.Errorf("the home cannot open the volume, and the replica is %v", got)
			}
			a.ReportOpen(d, "")
			e.OK(e.CopyKeeper.Maintain(e.Ctx, e.MustVolume("db").Dataset))
			if got := copiesOf(e, "db"); got["beta"] != dataset.CopyCondemned {
				t.Errorf("the home is well, and the replica is %v", got)
			}
			if v := e.MustVolume("db"); v.Home != a.ID || v.State != dataset.StateReady {
				t.Errorf("%+v", v.Dataset)
			}
			// The node is about to destroy its copy, so it can have a replica again soon.
			e.MustSubmit(setProfile("safe"))
			b.OK(b.ReportCopy(e.Ctx, b.ID, api.CopyReport{
				Incarnation: b.Incarnation, Removed: true, Copy: dataset.Copy{Dataset: d.ID, Node: b.ID},
			}))
			e.Round()
			if got := copiesOf(e, "db"); got["beta"] != dataset.CopyReplica {
				t.Errorf("replicas again: %v", got)
			}
		})
	}
}

// TestSetProfileWithTooFewNodes: a profile with replicas is refused if too few other nodes can have one. The error says
// why each of them cannot.
func TestSetProfileWithTooFewNodes(t *testing.T) {
	put := func(kind dataset.CopyKind) func(*controltest.Control, *controltest.Agent, dataset.Dataset) {
		return func(e *controltest.Control, b *controltest.Agent, d dataset.Dataset) {
			e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
				d, err := t.Dataset(d.ID)
				return errors.Join(err, record.PutCopy(t, &d, dataset.Copy{
					Dataset: d.ID, Node: b.ID, Pool: b.LocalPools[0].ID, Kind: kind, Epoch: 1, Snapshot: uuid.New(),
					Taken: controltest.Start,
				}))
			}))
		}
	}
	cordon := func(e *controltest.Control, b *controltest.Agent, _ dataset.Dataset) {
		e.EditNode(b, func(n *dataset.Node) { n.Cordoned = true })
	}
	type prepare = func(*controltest.Control, *controltest.Agent, dataset.Dataset)
	for name, c := range map[string]struct {
		prepare []prepare
		refused []string // parts of the error; none: accepted
	}{
		"node without a copy":        {},
		"node with what a move left": {prepare: []prepare{put(dataset.CopyLeft)}},
		"node destroys its copy":     {prepare: []prepare{put(dataset.CopyCondemned)}},
		"cordoned":                   {[]prepare{cordon}, []string{"pool fast of node beta: its node is cordoned"}},
		"cordoned, with what a move left": {
			[]prepare{put(dataset.CopyLeft), cordon}, []string{"node beta is cordoned (drover node cordon --off beta)"},
		},
		"superseded copy": {
			[]prepare{put(dataset.CopySuperseded)},
			[]string{"node beta keeps a superseded copy (drover copy ls)"},
		},
		"pool offline": {
			[]prepare{func(_ *controltest.Control, b *controltest.Agent, _ dataset.Dataset) { b.ReportOnline(false) }},
			[]string{"it is offline"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := controltest.New(t)
			e.AddReplicaProfile(1)
			a, b := e.NewAgent("alpha"), e.NewAgent("beta")
			d := a.MustCreate("db@silver")
			for _, f := range c.prepare {
				f(e, b, d)
			}
			_, err := e.Submit(e.Ctx, setProfile("safe"))
			if len(c.refused) > 0 {
				controltest.Refused(t, err, dataset.ErrUnsupported, append(c.refused,
					"volume db: profile safe requires replicas on more nodes than can have one")...)
				if v := e.MustVolume("db"); v.Profile.Name != "silver" {
					t.Errorf("refused, and the profile is %s", v.Profile.Name)
				}
			} else if err != nil {
				t.Errorf("%v", err)
			}
			e.CheckInvariants()
		})
	}
}

// TestSetProfileWithOneNode: a single node cannot have replicas.
func TestSetProfileWithOneNode(t *testing.T) {
	e := controltest.New(t)
	e.AddReplicaProfile(1)
	e.NewAgent("alpha").MustCreate("db@silver")
	e.MustRefuse(setProfile("safe"), dataset.ErrUnsupported, "there is no other node")
	e.CheckInvariants()
}
