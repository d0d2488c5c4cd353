package planning_test

import (
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// Option node is about the creation. An engine repeats it for a volume that was moved since; a person who requests an
// existing volume on another node is told where the volume is.
func TestChosenNodeOfExistingVolume(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
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
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
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
