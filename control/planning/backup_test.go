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
	a.MustRefusePlan(backUp("db"), dataset.ErrInvalid, "a backup is recorded before it begins: submit it")

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
	refuseBackup(a, resize, dataset.ErrInvalid, "unexpected repository: it applies only to backup and import, not to resize")
	resize.Repository, resize.Backup = "", "1f"
	refuseBackup(a, resize, dataset.ErrInvalid, "unexpected backup: it applies only to import, not to resize")
	id := strings.Repeat("0f", 32)
	for want, change := range map[string]func(*api.Request){
		"expected both repository and backup":  func(r *api.Request) { r.Repository = "" },
		"expected both":                        func(r *api.Request) { r.Backup = "" },
		"path and backup exclude each other":   func(r *api.Request) { r.Path = "/srv" },
		"expected 64 hexadecimal digits":       func(r *api.Request) { r.Backup = id[:8] },
		"a restored backup has the owner":      func(r *api.Request) { r.Options = map[string]string{"owner": "1:1"} },
		"an import creates a new one (choose ": func(r *api.Request) { r.Volume = "db" },
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
	e.EditNode(a, func(n *dataset.Node) { n.OperationKinds, n.Version = []dataset.OpKind{dataset.OpRewrite}, "1.0.0" })
	refuseBackup(a, backUp("db"), dataset.ErrUnsupported,
		"backup of volume db: its home, node alpha, runs drover 1.0.0, which does not support this: update drover there")
	e.EditNode(a, func(n *dataset.Node) { n.OperationKinds = []dataset.OpKind{dataset.OpBackup} })
	e.MustSubmit(api.Request{Kind: dataset.OpMove, Volume: "db", Node: "beta"})
	refuseBackup(a, backUp("db"), dataset.ErrConflict, "it is being moved to another node")
}
