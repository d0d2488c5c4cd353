package control_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/planning"
	"github.com/droverhq/drover/dataset"
)

// replicaAt starts a control replica of a version.
func replicaAt(x *controltest.Replicas, name, version string) *control.Service {
	x.Helper()
	s, _ := control.Assemble(control.Deps{
		Store: x.Store, Clock: x.Clock, Version: version, Shared: true,
		Replica:  membership.Replica{Name: name, Address: name + ":9470"},
		Profiles: func() planning.Profiles { return x.Profiles },
	})
	x.Cleanup(s.Close)
	x.TakePart(s)
	return s
}

// addNightly adds the profile nightly, whose volumes are backed up every night.
func addNightly(x *controltest.Replicas) {
	p := x.Profiles.ByName["bronze"]
	p.Name, p.Revision = "nightly", "r1-nightly"
	p.Backup = dataset.Backups{To: "offsite", Schedule: "@daily"}
	x.Profiles.ByName[p.Name] = p
}

// The record of a backup has the incarnation of the agent that gets it. It stays the same if that agent starts again: a
// later start must not believe that no earlier one has run the operation.
func TestBackupNamesTheStartOfItsAgent(t *testing.T) {
	e := controltest.New(t)
	controltest.AddRepository(e, "offsite")
	a := e.NewAgent("alpha")
	a.MustCreate("db")
	op := *e.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpBackup, Volume: "db"}).Operation
	first := a.Incarnation
	if op.Incarnation == uuid.Nil || op.Incarnation != first {
		t.Errorf("got %s, want %s", op.Incarnation, first)
	}
	a.Incarnation = uuid.New()
	a.MustRegister("alpha")
	if got := a.OpenOperations(); len(got) != 1 || got[0].ID != op.ID || got[0].Incarnation != first {
		t.Errorf("got %+v, want incarnation %s", got, first)
	}
}
