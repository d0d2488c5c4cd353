package volume_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

func backUp(volume string) api.Request { return api.Request{Kind: dataset.OpBackup, Volume: volume} }

// refuseBackup checks that control refuses to record a backup.
func refuseBackup(a *controltest.Agent, req api.Request, kind *dataset.Kind, parts ...string) {
	a.Helper()
	controltest.Refused(a, a.TrySubmit(req), kind, parts...)
}

// A backup is done by the volume's home, in the only repository if the request names none. It changes no record of the
// volume. Its operation has the result.
func TestBackup(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustRegister("alpha")
	d := a.MustCreate("db@gold")
	s := a.MustSnapshot("db", "one")
	refuseBackup(a, backUp("db"), dataset.ErrNotFound, "backup of volume db: no repository is recorded (drover repository add)")
	controltest.AddRepository(e, "offsite")
	refuseBackup(a, backUp("none"), dataset.ErrNotFound, "no such volume")
	other := backUp("db")
	other.Repository = "offsit"
	refuseBackup(a, other, dataset.ErrNotFound, `no such repository: "offsit" (available: offsite)`)
	a.MustRefusePlan(backUp("db"), dataset.ErrInvalid, "an operation of kind \"backup\" is not planned: submit it")

	for _, snapshot := range []string{"", "one"} {
		req := backUp("db")
		req.Snapshot = snapshot
		op := *e.MustSubmit(req).Operation
		if op.Node != a.ID || op.Repository != "offsite" || (op.Snapshot != nil) != (snapshot != "") {
			t.Errorf("got %+v", op)
		}
		if op.Snapshot != nil && op.Snapshot.ID != s.ID {
			t.Errorf("got snapshot %s, want %s", op.Snapshot.ID, s.ID)
		}
		before := e.MustVolume("db").Dataset
		if err := a.TryCommit(op); dataset.KindOf(err) != dataset.ErrInvalid {
			t.Errorf("a report without a backup: %v", err)
		}
		op.Backup, op.BytesAdded = strings.Repeat("0f", 32), 7
		for range 2 {
			a.MustCommit(op)
		}
		got, err := e.Operation(e.Ctx, op.ID.String(), 0)
		if err != nil || got.State != dataset.OpDone || got.Backup != op.Backup || got.BytesAdded != 7 ||
			got.Repository != "offsite" {
			t.Errorf("got %+v, %v", got, err)
		}
		if now := e.MustVolume("db").Dataset; now.Request != before.Request || now.ID != d.ID {
			t.Errorf("the record is %+v", now)
		}
	}
	controltest.AddRepository(e, "nas")
	refuseBackup(a, backUp("db"), dataset.ErrAmbiguous,
		"backup of volume db: several repositories are recorded (name one of them with --to: nas, offsite)")
	e.CheckInvariants()
}

// The profile names the repository of a backup whose request names none.
func TestBackupUsesRepositoryOfProfile(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustRegister("alpha")
	keptBackups(e, dataset.Keep{Last: 1})
	controltest.AddRepository(e, "nas")
	a.MustCreate("db@backed")
	if op := e.MustSubmit(backUp("db")).Operation; op.Repository != "offsite" {
		t.Errorf("the repository is %q, want offsite", op.Repository)
	}
	e.CheckInvariants()
}

// A backup reads a private clone, so its volume may be deleted or moved meanwhile. The end of the backup is recorded.
func TestBackupOfVolumeThatIsGone(t *testing.T) {
	for name, change := range map[string]func(e *controltest.Control, a, b *controltest.Agent){
		"deleted": func(_ *controltest.Control, a, _ *controltest.Agent) { a.MustPurge(a.MustDelete("db")) },
		"moved":   func(e *controltest.Control, a, b *controltest.Agent) { e.MustMove("db", a, b, "beta") },
	} {
		t.Run(name, func(t *testing.T) {
			e, a, b := controltest.TwoNodes(t)
			a.MustRegister("alpha")
			b.MustRegister("beta")
			a.MustCreate("db@fleeting")
			controltest.AddRepository(e, "offsite")
			op := *e.MustSubmit(backUp("db")).Operation
			change(e, a, b)
			op.Backup = strings.Repeat("0f", 32)
			for range 2 {
				a.MustCommit(op)
			}
			if got, err := e.Operation(e.Ctx, op.ID.String(), 0); err != nil || got.Backup != op.Backup {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

// A report of a backup that control did not plan is refused. A backup can be cancelled. It is not begun during a move,
// nor by an agent that does not know the kind.
func TestBackupIsRefused(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	a.MustRegister("alpha")
	b.MustRegister("beta")
	d := a.MustCreate("db@gold")
	controltest.AddRepository(e, "offsite")
	err := a.TryCommit(dataset.Operation{
		ID: uuid.New(), Kind: dataset.OpBackup, Node: a.ID, DatasetID: d.ID, Volume: "db", Epoch: d.Epoch,
		Backup: strings.Repeat("0f", 32),
	})
	controltest.Refused(t, err, dataset.ErrInvalid, "control has planned no such backup")
	op := *e.MustSubmit(backUp("db")).Operation
	e.OK(e.CancelOperation(e.Ctx, op.ID.String()))
	resize := api.Request{Kind: dataset.OpResize, Volume: "db", Size: "50GiB", Repository: "offsite"}
	refuseBackup(a, resize, dataset.ErrInvalid, "unexpected repository: it applies only to backup, push, import and verify, not to resize")
	resize.Repository, resize.Backup = "", "1f"
	refuseBackup(a, resize, dataset.ErrInvalid, "unexpected backup: it applies only to import and verify, not to resize")
	id := strings.Repeat("0f", 32)
	for want, change := range map[string]func(*api.Request){
		"expected both repository and backup":          func(r *api.Request) { r.Repository = "" },
		"expected both":                                func(r *api.Request) { r.Backup = "" },
		"path and backup exclude each other":           func(r *api.Request) { r.Path = "/srv" },
		"expected 64 hexadecimal digits":               func(r *api.Request) { r.Backup = id[:8] },
		"a restored backup has the owner":              func(r *api.Request) { r.Options = map[string]string{"owner": "1:1"} },
		"exists already, and is not replaced (choose ": func(r *api.Request) { r.Volume = "db" },
	} {
		restore := api.Request{Kind: dataset.OpImport, Volume: "new@gold", Repository: "offsite", Backup: id}
		change(&restore)
		kind := dataset.ErrInvalid
		if restore.Volume == "db" {
			kind = dataset.ErrExists
		}
		refuseBackup(a, restore, kind, want)
	}
	lost := api.Request{Kind: dataset.OpImport, Volume: "new@gold", Repository: "lost", Backup: id}
	refuseBackup(a, lost, dataset.ErrNotFound, "lost")
	e.MustSubmit(api.Request{Kind: dataset.OpMove, Volume: "db", Node: "beta"})
	refuseBackup(a, backUp("db"), dataset.ErrConflict, "it is being moved to another node")
}

// verify is the request to verify a backup of a volume that need not exist.
func verify(spec string) api.Request {
	return api.Request{
		ID: uuid.New(), Kind: dataset.OpVerify, Volume: spec, Repository: "offsite", Backup: strings.Repeat("0f", 32),
	}
}

// The temporary dataset of a verification is in no list, neither while it exists nor after the end. Only the events and
// the operation name the backup.
func TestVerificationIsNotRecordedAsVolume(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustRegister("alpha")
	a.MustCreate("db@gold")
	controltest.AddRepository(e, "offsite")
	hidden := func(op dataset.Operation, when string) {
		t.Helper()
		if list, err := e.Volumes(e.Ctx, api.Page{}); err != nil || len(list.Items) != 1 || list.Items[0].ID == op.DatasetID {
			t.Errorf("%s: the volumes are %+v, %v", when, list.Items, err)
		}
		if list, err := e.Trash(e.Ctx, api.Page{}); err != nil || len(list.Items) != 0 {
			t.Errorf("%s: the trash has %+v, %v", when, list.Items, err)
		}
		e.CheckInvariants()
	}
	for _, spec := range []string{"db@gold", "lost@gold"} {
		op := *e.MustSubmit(verify(spec)).Operation
		if op.Node != a.ID || op.DatasetRecord == nil || op.DatasetRecord.State != dataset.StatePurging {
			t.Fatalf("%s: got %+v", spec, op)
		}
		hidden(op, "planned")
		e.OK(e.Record(e.Ctx, a.ID, a.ReportOf(op)))
		if now, err := e.Operation(e.Ctx, op.ID.String(), 0); err != nil || now.State != dataset.OpRunning {
			t.Errorf("%s: got %+v, %v", spec, now, err)
		}
		op.DatasetRecord = nil
		for range 2 {
			a.MustCommit(op)
		}
		hidden(op, "ended")
		now, err := e.Operation(e.Ctx, op.ID.String(), 0)
		if err != nil || now.State != dataset.OpDone || now.DatasetRecord != nil || now.Backup != op.Backup {
			t.Errorf("%s: got %+v, %v", spec, now, err)
		}
		wantEvent(e, api.EventVolumeVerify, op.Volume, "0f0f0f0f in offsite")
	}
	op := *e.MustSubmit(verify("db@gold")).Operation
	op.Problem = &dataset.Problem{Code: dataset.ErrCorrupt.Code, Message: "a file differs"}
	a.MustCommit(op)
	wantEvent(e, api.EventVolumeVerifyFail, "db", "0f0f0f0f in offsite: a file differs")
	hidden(op, "failed")
	for _, kind := range []*dataset.Kind{
		dataset.ErrNoSpace, dataset.ErrOffline, dataset.ErrForbidden, dataset.ErrInUse, dataset.ErrInternal,
	} { // nothing is known about the backup: there is still one event
		op = *e.MustSubmit(verify("db@gold")).Operation
		op.Problem = &dataset.Problem{Code: kind.Code, Message: "an obstacle"}
		a.MustCommit(op)
		wantEvent(e, api.EventVolumeVerifyFail, "db", "0f0f0f0f in offsite: a file differs")
	}
	op = *e.MustSubmit(verify("lost@gold")).Operation
	op.Problem = &dataset.Problem{Code: dataset.ErrNotFound.Code, Message: "it has no such backup"}
	a.MustCommit(op)
	wantEvent(e, api.EventVolumeVerifyFail, "lost", "0f0f0f0f in offsite: it has no such backup")
	op = *e.MustSubmit(verify("db@gold")).Operation
	e.OK(e.CancelOperation(e.Ctx, op.ID.String()))
	controltest.Refused(t, a.TryCommit(op), dataset.ErrCancelled, "was cancelled meanwhile")
	hidden(op, "cancelled")
}

// A verification needs a backup, and the node that carries it out must know the kind.
func TestVerificationIsRefused(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustRegister("alpha")
	controltest.AddRepository(e, "offsite")
	for want, change := range map[string]func(*api.Request){
		"expected both repository and backup": func(r *api.Request) { r.Repository, r.Backup = "", "" },
		"expected both":                       func(r *api.Request) { r.Backup = "" },
		"no such repository":                  func(r *api.Request) { r.Repository = "other" },
		"expected 64 hexadecimal digits":      func(r *api.Request) { r.Backup = r.Backup[:8] },
		"unexpected option":                   func(r *api.Request) { r.Options = map[string]string{"from": "db"} },
		"unexpected option (":                 func(r *api.Request) { r.Options = map[string]string{"label.a": "b"} },
		"unexpected option (available: fs,":   func(r *api.Request) { r.Options = map[string]string{"node": "alpha"} },
		`unknown profile "absent"`:            func(r *api.Request) { r.Options = map[string]string{"profile": "absent"} },
	} {
		req := verify("db")
		change(&req)
		if _, err := e.Submit(e.Ctx, req); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := e.Plan(e.Ctx, a.ID, verify("db@gold")); err == nil || !strings.Contains(err.Error(), "submit it") {
		t.Errorf("got %v", err)
	}
	op := dataset.Operation{
		ID: uuid.New(), Kind: dataset.OpVerify, Node: a.ID, DatasetID: uuid.New(), Volume: "db", Epoch: 1,
		Backup: strings.Repeat("0f", 32),
	}
	controltest.Refused(t, a.TryCommit(op), dataset.ErrInvalid, "control has planned no such verify")
}

// The events of a verification name its check program, and only a verification has one.
func TestCheckProgramIsNamed(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustRegister("alpha")
	controltest.AddRepository(e, "offsite")
	req := verify("db@gold")
	req.Check = "/etc/drover/checks/mariadb"
	if op := *e.MustSubmit(req).Operation; op.Check != req.Check {
		t.Errorf("got %+v", op)
	} else {
		op.Problem = &dataset.Problem{Code: dataset.ErrCorrupt.Code, Message: "exit status 1"}
		a.MustCommit(op)
		wantEvent(e, api.EventVolumeVerifyFail, "db", "0f0f0f0f in offsite, checked by /etc/drover/checks/mariadb: exit status 1")
	}
	other := req
	other.ID, other.Kind = uuid.New(), dataset.OpResize
	if _, err := e.Submit(e.Ctx, other); err == nil || !strings.Contains(err.Error(), "unexpected") {
		t.Errorf("a resize: %v", err)
	}
}

// wantEvent fails unless one event of a type is about a volume, with the text.
func wantEvent(e *controltest.Control, kind api.EventType, volume, detail string) {
	e.Helper()
	var found []api.Event
	if err := e.Events(e.Ctx, 0, false, func(ev api.Event) error {
		if ev.Type == kind && ev.Volume == volume {
			found = append(found, ev)
		}
		return nil
	}); err != nil || len(found) != 1 || found[0].Detail != detail || found[0].Dataset != uuid.Nil {
		e.Errorf("the events %s of volume %s are %+v, %v, want one with %q", kind, volume, found, err, detail)
	}
}

func push(volume, name string) api.Request {
	return api.Request{Kind: dataset.OpPush, Volume: volume, Repository: "offsite", Name: name}
}

// A push is done by the volume's home. Its end is recorded in the volume: which version of which name the volume
// continues. Each repository has one entry.
func TestPush(t *testing.T) {
	e, a := controltest.OneNode(t)
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
	e, a := controltest.OneNode(t)
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
	e.OK(err)
	return last
}

func TestPushIsRefused(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
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
	e, a := controltest.OneNode(t)
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

// backsUp requests a backup of db. The returned function reports it as made, exact or not.
func backsUp(a *controltest.Agent, req api.Request) (op dataset.Operation, end func(exact bool) string) {
	a.Helper()
	req.ID, req.Kind, req.Volume, req.Repository = uuid.New(), dataset.OpBackup, "db", "offsite"
	op = *a.Control.MustSubmit(req).Operation
	return op, func(exact bool) string {
		a.Helper()
		made := op
		made.Backup = backupID(op.ID)
		if exact {
			made.ExactSession = "session"
		}
		a.MustCommit(made)
		return made.Backup
	}
}

// The parent of a backup is the last exact backup that control has recorded, while the volume continues its content.
func TestParentOfBackup(t *testing.T) {
	e := controltest.New(t)
	controltest.AddRepository(e, "offsite")
	a := e.NewAgent("alpha")
	d := a.MustCreate("db")
	want := func(what, parent string) (end func(exact bool) string) {
		t.Helper()
		op, end := backsUp(a, api.Request{})
		if op.Parent != parent || (op.ReadsAll == "") != (parent != "") {
			t.Errorf("%s: got the parent %q, and it reads everything because %q, want %q", what, op.Parent, op.ReadsAll, parent)
		}
		return end
	}
	want("the first backup", "")(false)
	first := want("after a backup that is not exact", "")(true)
	want("after an exact one", first)(false)
	s := a.MustSnapshot("db", "before")
	if op, end := backsUp(a, api.Request{Snapshot: s.ID.String()}); op.Parent != "" || op.ReadsAll == "" {
		t.Errorf("a backup of a snapshot has the parent %q", op.Parent)
	} else {
		end(true)
	}
	runs := want("after a backup of a snapshot", first)

	// A restore ends it, and also what was begun before or during the restore.
	restore := *e.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpRestore, Volume: "db", Snapshot: s.ID.String()}).Operation
	meanwhile := want("during a restore", "")
	runs(true)
	meanwhile(true)
	want("still during the restore", "")(false)
	late := want("late in the restore", "")
	a.MustCommit(restore)
	late(true)
	second := want("after the restore", "")(true)
	third := want("after a backup of the restored content", second)(true)

	// A rebuild of the record ends it.
	want("before a rebuild", third)(true)
	_, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		d, err := t.Dataset(d.ID)
		if err != nil {
			return err
		}
		return record.AddDataset(t, d, uuid.Nil)
	})
	require.NoError(t, err)
	want("after a rebuild", "")
	e.CheckInvariants()
}

// A move ends the parent, also if the volume comes back: the other host can have lost writes in a power cut.
func TestMoveEndsParent(t *testing.T) {
	e := controltest.New(t)
	controltest.AddRepository(e, "offsite")
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustCreate("db@gold")
	_, end := backsUp(a, api.Request{})
	end(true)
	e.MustMove("db", a, b, "beta")
	e.MustMove("db", b, a, "alpha")
	if op, _ := backsUp(a, api.Request{}); op.Parent != "" || op.ReadsAll == "" {
		t.Errorf("got the parent %q, and it reads everything because %q", op.Parent, op.ReadsAll)
	}
}
