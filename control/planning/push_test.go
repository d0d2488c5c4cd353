package planning_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

func push(volume, name string) api.Request {
	return api.Request{Kind: dataset.OpPush, Volume: volume, Repository: "offsite", Name: name}
}

// A push is done by the volume's home. Its end is recorded in the volume: which version of which name the volume
// continues. Each repository has one entry.
func TestPush(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustRegister("alpha")
	a.MustCreate("db@gold")
	controltest.AddRepository(e, "offsite")
	var last dataset.Operation
	for _, name := range []string{"", "prod", "prod"} {
		op := *e.MustSubmit(push("db", name)).Operation
		if want := map[bool]string{true: "db", false: name}[name == ""]; op.Push.Name != want || op.Push.By != "this process" || op.Node != a.ID {
			t.Errorf("got %+v", op)
		}
		if err := a.TryCommit(op); dataset.KindOf(err) != dataset.ErrInvalid {
			t.Errorf("a report without a backup: %v", err)
		}
		op.Backup, op.BytesAdded, last = strings.Repeat("0f", 32), 7, op
		report := op
		report.Push, report.Repository = nil, "" // as an agent sends it
		for range 2 {
			a.MustCommit(report)
		}
		if got, err := e.Operation(e.Ctx, op.ID.String(), 0); err != nil || got.State != dataset.OpDone || got.Backup != op.Backup || got.BytesAdded != 7 {
			t.Errorf("got %+v, %v", got, err)
		}
		if got := lastPush(e); got.Dataset != op.DatasetID || got.Detail != "version "+op.ID.String()[:8]+" of offsite/"+op.Push.Name {
			t.Errorf("the event is %+v", got)
		}
	}
	refs := e.MustVolume("db").BasedOn
	if len(refs) != 1 || refs[0] != (dataset.VersionRef{Repository: "offsite", Name: "prod", Version: last.ID}) {
		t.Errorf("the volume is based on %+v", refs)
	}
	e.CheckInvariants()
}

// A volume that was deleted while a push ran does not pass the pushed version on to another volume of its name.
func TestPushEndsAfterDelete(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustRegister("alpha")
	controltest.AddRepository(e, "offsite")
	d := a.MustCreate("web@silver")
	op := *e.MustSubmit(push("web", "")).Operation
	e.AdvanceClock(time.Minute)
	a.MustDelete("web")
	a.MustCreate("web@gold")
	op.Backup = strings.Repeat("0f", 32)
	a.MustCommit(op)
	if now := e.MustVolume("web"); now.ID == d.ID || len(now.BasedOn) > 0 {
		t.Errorf("it is based on %+v", now.BasedOn)
	}
	e.CheckInvariants()
}

// lastPush returns the last event of a push.
func lastPush(e *controltest.Control) (last api.Event) {
	e.Helper()
	err := e.Events(e.Ctx, 0, false, func(ev api.Event) error {
		if ev.Type == api.EventVolumePush {
			last = ev
		}
		return nil
	})
	if err != nil {
		e.Fatalf("%v", err)
	}
	return last
}

func TestPushIsRefused(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustRegister("alpha")
	b.MustRegister("beta")
	a.MustCreate("db@gold")
	refuseBackup(a, push("db", ""), dataset.ErrNotFound, "push of volume db: no such repository")
	controltest.AddRepository(e, "offsite")
	a.MustRefusePlan(push("db", ""), dataset.ErrInvalid, "an operation of kind \"push\" is not planned: submit it")
	refuseBackup(a, push("none", ""), dataset.ErrNotFound, "no such volume")
	refuseBackup(a, push("db", "a/b"), dataset.ErrInvalid, "push of volume db: bad volume name")
	refuseBackup(a, api.Request{Kind: dataset.OpPush, Volume: "db"}, dataset.ErrInvalid, "expected the name of a repository")
	op := *e.MustSubmit(push("db", "")).Operation
	op.ID, op.Backup = uuid.New(), strings.Repeat("0f", 32)
	controltest.Refused(t, a.TryCommit(op), dataset.ErrInvalid, "control has planned no such push")
	e.MustSubmit(api.Request{Kind: dataset.OpMove, Volume: "db", Node: "beta"})
	refuseBackup(a, push("db", ""), dataset.ErrConflict, "push of volume db: it is being moved to another node")
}

// A pulled volume continues the version that the request names, whatever its node reports.
func TestPulledVolumeContinuesVersion(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustRegister("alpha")
	controltest.AddRepository(e, "offsite")
	ref := dataset.VersionRef{Repository: "offsite", Name: "prod", Version: uuid.New()}
	req := api.Request{Kind: dataset.OpImport, Volume: "db@gold", Repository: "offsite", Backup: strings.Repeat("0f", 32), Version: &ref}
	other := dataset.VersionRef{Repository: "offsite", Name: "lies", Version: uuid.New()}
	for name, reported := range map[string][]dataset.VersionRef{"as sent by an agent": nil, "another one": {other}} {
		req.Volume = strings.ReplaceAll(name, " ", "-") + "@gold"
		op := *e.MustSubmit(req).Operation
		op.DatasetRecord.BasedOn = reported
		if got := a.MustCommit(op).Dataset.BasedOn; len(got) != 1 || got[0] != ref {
			t.Errorf("%s: the volume is based on %+v", name, got)
		}
	}
	op := a.MustPlan(controltest.Create("plain@gold"))
	op.DatasetRecord.BasedOn = []dataset.VersionRef{other}
	if got := a.MustCommit(op).Dataset.BasedOn; got != nil {
		t.Errorf("a created volume is based on %+v", got)
	}
	for want, change := range map[string]func(*api.Request, *dataset.VersionRef){
		"expected the repository offsite":               func(_ *api.Request, v *dataset.VersionRef) { v.Repository = "other" },
		"a name and a UUID":                             func(_ *api.Request, v *dataset.VersionRef) { v.Version = uuid.Nil },
		"bad version":                                   func(_ *api.Request, v *dataset.VersionRef) { v.Name = "../x" },
		"it applies only to the import of a backup":     func(r *api.Request, _ *dataset.VersionRef) { r.Kind = dataset.OpVerify },
		"only to the import of a backup, not to import": func(r *api.Request, _ *dataset.VersionRef) { r.Backup, r.Repository, r.Path = "", "", "/srv" },
	} {
		bad, version := req, ref
		bad.Volume, bad.Version = "new@gold", &version
		change(&bad, &version)
		refuseBackup(a, bad, dataset.ErrInvalid, want)
	}
}
