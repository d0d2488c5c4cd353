package control_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/requestid"
)

// TestOperationsNameTheirCaller: an operation and its events name who requested it, also if another caller reports its
// end. The name in the body of a report is not believed.
func TestOperationsNameTheirCaller(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	by := func(name string) context.Context { return requestid.WithBy(e.Ctx, name) }
	lastEvent := func(typ api.EventType) (by string) {
		t.Helper()
		list, _ := e.EventLog.After(0)
		for _, ev := range list {
			if ev.Type == typ {
				by = ev.By
			}
		}
		return by
	}
	wants := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: requested by %q, want %q", what, got, want)
		}
	}

	// Planned, and reported at once.
	p, err := a.Plan(by("root (uid 0) on alpha"), a.ID, controltest.Create("db@gold"))
	if err != nil {
		t.Fatal(err)
	}
	wants("a plan", p.Operation.By, "root (uid 0) on alpha")
	r := a.ReportOf(*p.Operation)
	r.Operation.By = "forged"
	if _, err := a.Commit(by("root (uid 0) on alpha"), a.ID, r); err != nil {
		t.Fatal(err)
	}
	wants("the event of a create", lastEvent(api.EventVolumeCreate), "root (uid 0) on alpha")

	// Planned, and recorded because it takes long.
	p, err = a.Plan(by("engine docker on alpha"), a.ID, controltest.Create("slow@gold"))
	if err != nil {
		t.Fatal(err)
	}
	r = a.ReportOf(*p.Operation)
	r.Operation.By = "forged"
	if err := a.Record(by("engine docker on alpha"), a.ID, r); err != nil {
		t.Fatal(err)
	}
	wants("a recorded create", e.MustOperation(p.Operation.ID).By, "engine docker on alpha")

	// Recorded by control, and reported by an agent.
	req := api.Request{ID: uuid.New(), Kind: dataset.OpSnapshot, Volume: "db", Name: "one"}
	if _, err := e.Submit(by("operator ann"), req); err != nil {
		t.Fatal(err)
	}
	for _, op := range a.OpenOperations() {
		if op.ID == req.ID {
			if _, err := a.Commit(by("operator ann on alpha"), a.ID, a.ReportOf(op)); err != nil {
				t.Fatal(err)
			}
		}
	}
	wants("a snapshot", e.MustOperation(req.ID).By, "operator ann")
	wants("the event of a snapshot", lastEvent(api.EventSnapshotCreate), "operator ann")

	// Records only.
	req = api.Request{ID: uuid.New(), Kind: dataset.OpRename, Volume: "db", Name: "data"}
	if _, err := e.Submit(by("operator ann"), req); err != nil {
		t.Fatal(err)
	}
	wants("a rename", e.MustOperation(req.ID).By, "operator ann")
	wants("the event of a rename", lastEvent(api.EventVolumeRename), "operator ann")
}

// TestSchedulesAreNamed: a scheduled snapshot names the schedule, and what nobody requested names nobody.
func TestSchedulesAreNamed(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db@gold")
	e.AdvanceAndRun(25 * time.Hour)
	found := false
	for _, op := range a.OpenOperations() {
		found = true
		if op.By != "schedule" {
			t.Errorf("%s of %s: requested by %q", op.Kind, op.Volume, op.By)
		}
	}
	if !found {
		t.Error("no scheduled operation")
	}

	l.Replicas.EndSession(l.Alpha)
	l.Ctx = requestid.WithBy(l.Ctx, "engine docker on beta")
	if _, err := l.AskFailover(l.Service, "beta"); err == nil {
		t.Error("a failover began at once")
	}
	list, _ := l.EventLog.After(0)
	for _, ev := range list {
		if ev.Type == api.EventNodeAway {
			if ev.By != "" {
				t.Errorf("a node became unreachable by request of %q", ev.By)
			}
			return
		}
	}
	t.Error("no event that the node is unreachable")
}
