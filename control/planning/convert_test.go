package planning_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

func requestProfile(volume, profile string) api.Request {
	return api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: volume, Profile: profile}
}

// addProfile adds a profile that is silver except for a change.
func addProfile(e *controltest.Control, name string, change func(*dataset.Profile)) {
	p := e.ProfileSet.ByName["silver"]
	p.Name, p.Revision = name, "r1-"+name
	change(&p)
	e.ProfileSet.ByName[name] = p
}

// A change of the filesystem or the encryption is planned as a conversion. Other changes are not.
func TestPlanConvert(t *testing.T) {
	e, agents := sealedEnv(t, "alpha")
	a := agents["alpha"]
	a.MustCreate("plain@silver")
	a.MustCreate("xfs@gold")
	sealed := controltest.Create("sealed@sealed")
	a.MustSeal(sealed, controltest.WrappedBy(uuid.New(), "1"))
	addProfile(e, "ext4", func(p *dataset.Profile) { p.Filesystem.Type = "ext4" })
	addProfile(e, "small", func(p *dataset.Profile) { p.Filesystem.Type, p.Size = "ext4", 5*dataset.GiB })
	addProfile(e, "folder", func(p *dataset.Profile) { p.Filesystem.Type, p.Pool = "ext4", "plain" })
	for _, c := range []struct {
		volume, profile string
		kind            dataset.OpKind
		change          string
		size            dataset.Size
	}{
		{"plain", "fleeting", dataset.OpUpdate, "profile fleeting, was silver", 10 * dataset.GiB},
		{"plain", "gold", dataset.OpConvert, "profile gold, was silver; filesystem xfs", 20 * dataset.GiB},
		{"plain", "sealed", dataset.OpConvert, "profile sealed, was silver; encrypted", 10 * dataset.GiB},
		{"xfs", "ext4", dataset.OpConvert, "profile ext4, was gold; filesystem ext4, was xfs", 20 * dataset.GiB},
		{"xfs", "small", dataset.OpConvert, "profile small, was gold; filesystem ext4, was xfs", 20 * dataset.GiB},
		{"xfs", "silver", dataset.OpUpdate, "profile silver, was gold", 20 * dataset.GiB},
		{"sealed", "silver", dataset.OpConvert, "profile silver, was sealed; no longer encrypted", 10 * dataset.GiB},
		{"sealed", "ext4", dataset.OpConvert, "profile ext4, was sealed; filesystem ext4; no longer encrypted", 10 * dataset.GiB},
	} {
		req := requestProfile(c.volume, c.profile)
		req.DryRun = true
		op := e.MustSubmit(req).Operation
		d := e.MustVolume(c.volume)
		if op.Kind != c.kind || op.Change != c.change || op.DatasetRecord.Size != c.size || op.DatasetID != d.ID ||
			(op.DatasetRecord.ID == d.ID) != (c.kind == dataset.OpUpdate) || op.DatasetRecord.Pool != d.Pool {
			t.Errorf("%s to %s: %s, %q, %+v", c.volume, c.profile, op.Kind, op.Change, op.DatasetRecord)
		}
	}
	a.MustCreate("files@bronze", "pool=plain")
	req := requestProfile("files", "ext4")
	req.DryRun = true
	op := e.MustSubmit(req).Operation
	if op.Change != "profile ext4, was bronze; filesystem ext4; pool fast, was plain" || op.DatasetRecord.Pool == e.MustVolume("files").Pool {
		t.Errorf("%q, %+v", op.Change, op.DatasetRecord)
	}
	_, err := e.Submit(e.Ctx, requestProfile("xfs", "folder"))
	controltest.Refused(t, err, dataset.ErrUnsupported, "conversion of volume xfs to profile folder", "plain")
	e.CheckInvariants()
}

// The outcome of a conversion: the new dataset has what belongs to the volume, also if it changed since the plan, and
// the former dataset is in the trash, whatever its profile says.
func TestCommitConvert(t *testing.T) {
	for profile, expires := range map[string]time.Duration{"silver": 72 * time.Hour, "fleeting": 24 * time.Hour, "kept": 0} {
		e := controltest.New(t)
		a := e.NewAgent("alpha")
		d := a.MustCreate("db@" + profile)
		s := a.MustSnapshot("db", "first")
		e.AdvanceClock(time.Hour)
		op := *e.MustSubmit(requestProfile("db", "gold")).Operation
		e.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpRename, Volume: "db", Name: "shop"})
		e.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "shop", Protect: controltest.Yes()})
		e.MustSubmit(api.Request{
			ID: uuid.New(), Kind: dataset.OpUpdate, Volume: "shop", Labels: &dataset.LabelChange{Set: map[string]string{"tier": "one"}},
		})
		for range 2 {
			former := a.MustCommit(op).Dataset
			if former.ID != d.ID || former.State != dataset.StateTrashed || former.Protected || len(former.Aliases) > 0 {
				t.Errorf("%+v", former)
			}
			if tr := former.Trash; expires == 0 && !tr.Expires.IsZero() || expires > 0 && tr.Expires.Sub(tr.At) != expires {
				t.Errorf("%s: it is in the trash from %s to %s", profile, tr.At, tr.Expires)
			}
		}
		for _, name := range []string{"db", "shop"} {
			now := e.MustVolume(name)
			if now.ID != op.DatasetRecord.ID || now.Volume != "shop" || !slices.Equal(now.Aliases, []string{"db"}) ||
				now.Labels["tier"] != "one" || !now.Protected || !now.Created.Equal(d.Created) || now.Profile.Name != "gold" ||
				now.Size != op.DatasetRecord.Size || !now.ScheduleSince.Equal(e.Clock.Now()) || now.HeadParent != uuid.Nil {
				t.Errorf("%s: %+v", name, now.Dataset)
			}
		}
		if kept, err := e.Snapshot(e.Ctx, "", s.ID.String()); err != nil || kept.Dataset != d.ID {
			t.Errorf("%+v, %v", kept, err)
		}
		if ended := e.MustOperation(op.ID); ended.State != dataset.OpDone || ended.DatasetRecord.Volume != "shop" {
			t.Errorf("%+v", ended)
		}
		e.CheckInvariants()
	}
}

// While a conversion is open, a move, another profile and another conversion are refused. After it was cancelled, its
// report is refused and nothing has changed.
func TestOpenConversion(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	e.NewAgent("beta")
	d := a.MustCreate("db@silver")
	op := *e.MustSubmit(requestProfile("db", "gold")).Operation
	short := op.ID.String()[:8]
	for _, req := range []api.Request{requestProfile("db", "gold"), requestProfile("db", "kept"), controltest.Move("db", "beta")} {
		_, err := e.Submit(e.Ctx, req)
		controltest.Refused(t, err, dataset.ErrConflict, "is being converted to profile gold", "drover operation watch "+short, "drover operation cancel "+short)
	}
	if _, err := e.CancelOperation(e.Ctx, op.ID.String()); err != nil {
		t.Fatal(err)
	}
	controltest.Refused(t, a.TryCommit(op), dataset.ErrCancelled)
	if now := e.MustVolume("db"); now.ID != d.ID || now.Profile.Name != "silver" {
		t.Errorf("%+v", now)
	}
	e.MustSubmit(requestProfile("db", "kept"))
	e.CheckInvariants()
}

// A report is refused if it is not that of the planned conversion, or if the volume has changed since the plan.
func TestCommitConvertIsChecked(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db@silver")
	other := a.MustCreate("other@silver")
	rm := a.MustPlan(api.Request{Kind: dataset.OpDelete, Volume: "db"}) // before the conversion, which would refuse it
	op := *e.MustSubmit(requestProfile("db", "gold")).Operation
	for what, change := range map[string]func(*dataset.Operation){
		"unplanned":       func(o *dataset.Operation) { o.ID = uuid.New() },
		"without record":  func(o *dataset.Operation) { o.DatasetRecord = nil },
		"the former one":  func(o *dataset.Operation) { o.DatasetRecord.ID = o.DatasetID },
		"another dataset": func(o *dataset.Operation) { o.DatasetRecord.ID = other.ID },
		"another profile": func(o *dataset.Operation) { o.DatasetRecord.Profile.Name = "silver" },
		"another epoch":   func(o *dataset.Operation) { o.DatasetRecord.Epoch = 7 },
		"a data key": func(o *dataset.Operation) {
			k := controltest.WrappedBy(uuid.New(), "1")
			o.DatasetRecord.Encryption = &k
		},
	} {
		bad, d := op, *op.DatasetRecord
		bad.DatasetRecord = &d
		change(&bad)
		if err := a.TryCommit(bad); dataset.KindOf(err) != dataset.ErrInvalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	a.MustCommit(rm)
	controltest.Refused(t, a.TryCommit(op), dataset.ErrConflict, "it was deleted meanwhile")
	e.CheckInvariants()
}

// While a conversion is open, every request that would wait for its lock is refused with the operation's ID. Labels,
// names and a delete without the home are not refused. After the end of the conversion, all are allowed.
func TestRequestsDuringConversion(t *testing.T) {
	e, agents := sealedEnv(t, "alpha")
	a := agents["alpha"]
	d := controltest.Create("db@sealed")
	a.MustSeal(d, controltest.WrappedBy(uuid.New(), "1"))
	a.MustSnapshot("db", "first")
	op := *e.MustSubmit(requestProfile("db", "silver")).Operation
	short := op.ID.String()[:8]
	requests := []api.Request{
		{Kind: dataset.OpDelete, Volume: "db"}, {Kind: dataset.OpSnapshot, Volume: "db"},
		{Kind: dataset.OpRestore, Volume: "db", Snapshot: "first"}, {Kind: dataset.OpResize, Volume: "db", Size: "30GiB"},
		{Kind: dataset.OpRekey, Volume: "db"}, {Kind: dataset.OpRewrite, Volume: "db"},
	}
	for _, req := range requests {
		_, err := e.Submit(e.Ctx, req)
		controltest.Refused(t, err, dataset.ErrConflict, string(req.Kind)+" of volume db: the volume is being converted",
			"drover operation cancel "+short)
		_, err = e.Plan(e.Ctx, a.ID, req)
		controltest.Refused(t, err, dataset.ErrConflict, "drover operation watch "+short)
	}
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: controltest.Yes()})
	if _, err := e.CancelOperation(e.Ctx, op.ID.String()); err != nil {
		t.Fatal(err)
	}
	e.MustSubmit(api.Request{Kind: dataset.OpSnapshot, Volume: "db"})
}

// A long conversion to an encrypted profile is recorded as running before the new dataset has a data key.
func TestLongConvertIsRecorded(t *testing.T) {
	e, agents := sealedEnv(t, "alpha")
	a := agents["alpha"]
	a.MustCreate("db@silver")
	op := *e.MustSubmit(requestProfile("db", "sealed")).Operation
	if err := e.Record(e.Ctx, a.ID, a.ReportOf(op)); err != nil {
		t.Fatal(err)
	}
	if now := e.MustOperation(op.ID); now.State != dataset.OpRunning {
		t.Errorf("it is %s", now.State)
	}
	if err := a.TryCommit(op); dataset.KindOf(err) != dataset.ErrInvalid {
		t.Errorf("without a data key: %v", err)
	}
	key := controltest.WrappedBy(uuid.New(), "1")
	op.DatasetRecord.Encryption = &key
	a.MustCommit(op)
	if now := e.MustVolume("db"); now.Encryption == nil {
		t.Errorf("%+v", now)
	}
}

// A decision that read the dataset before a conversion was recorded is made again.
func TestConvertWritesTheDataset(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	d := a.MustCreate("db@silver")
	before, err := e.Ledger.Store.Get(e.Ctx, record.DatasetKey(d.ID))
	if err != nil {
		t.Fatal(err)
	}
	e.MustSubmit(requestProfile("db", "gold"))
	after, err := e.Ledger.Store.Get(e.Ctx, record.DatasetKey(d.ID))
	if err != nil || after.Index == before.Index || string(after.Value) != string(before.Value) {
		t.Errorf("%+v, %v, was %+v", after, err, before)
	}
}

// The new dataset of a conversion gets the replicas of its profile.
func TestConvertToReplicas(t *testing.T) {
	e := controltest.New(t)
	e.AddReplicaProfile(1)
	a := e.NewAgent("alpha")
	e.NewAgent("beta")
	d := a.MustCreate("db@silver")
	p := e.ProfileSet.ByName["safe"]
	p.Filesystem.Type = "ext4"
	e.ProfileSet.ByName["safe"] = p
	a.MustCommit(*e.MustSubmit(requestProfile("db", "safe")).Operation)
	if got := copiesOf(e, "db"); len(got) != 1 || got["beta"] != dataset.CopyReplica || e.MustVolume("db").ID == d.ID {
		t.Errorf("copies: %v", got)
	}
}
