package planning_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
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
	e := controltest.New(t)
	a := e.NewAgent("alpha")
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
	e := controltest.New(t)
	a := e.NewAgent("alpha")
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
			e := controltest.New(t)
			a, b := e.NewAgent("alpha"), e.NewAgent("beta")
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
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
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
	if _, err := e.CancelOperation(e.Ctx, op.ID.String()); err != nil {
		t.Error(err)
	}
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
	e := controltest.New(t)
	a := e.NewAgent("alpha")
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
		if err := e.Record(e.Ctx, a.ID, a.ReportOf(op)); err != nil {
			t.Fatal(err)
		}
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
	if _, err := e.CancelOperation(e.Ctx, op.ID.String()); err != nil {
		t.Error(err)
	}
	controltest.Refused(t, a.TryCommit(op), dataset.ErrCancelled, "was cancelled meanwhile")
	hidden(op, "cancelled")
}

// A verification needs a backup, and the node that carries it out must know the kind.
func TestVerificationIsRefused(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
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
	e := controltest.New(t)
	a := e.NewAgent("alpha")
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
