package planning_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

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
	if err != nil {
		t.Fatal(err)
	}
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
