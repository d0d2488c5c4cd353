package control_test

import (
	"testing"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// While a node does not trust the store, control decides nothing about that node: a name that is free in the store
// may belong to a volume.
func TestDistrustedStoreIsNotChanged(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db")
	a.MustCreate("gone")
	a.MustDelete("gone")
	s := a.MustSnapshot("db", "one")
	a.ReportDistrust("it is older")
	for _, req := range []api.Request{
		controltest.Create("late"), controltest.Create("copy", "from=db"), {Kind: dataset.OpDelete, Volume: "db"}, {Kind: dataset.OpUndelete, Volume: "gone"},
		{Kind: dataset.OpPurge, Volume: "gone"}, {Kind: dataset.OpUpdate, Volume: "db", Protect: controltest.Yes()}, {Kind: dataset.OpUpdate, Volume: "db", Profile: "kept"},
		{Kind: dataset.OpSnapshot, Volume: "db"}, {Kind: dataset.OpSnapshotDelete, Snapshot: s.ID.String()},
		{Kind: dataset.OpRestore, Volume: "db", Snapshot: "one"},
	} {
		_, err := e.Submit(e.Ctx, req)
		controltest.Refused(t, err, dataset.ErrConflict, "it is older", "drover store recover --from-pools")
		if !control.Alone(req.Kind) {
			a.MustRefusePlan(req, dataset.ErrConflict, "drover store recover --from-pools")
		}
	}
	if out := e.MustSubmit(controltest.Create("db")); out.Volume == nil {
		t.Errorf("the existing volume, as requested: %+v", out)
	}
	a.ReportDistrust("")
	a.MustCreate("late")
	e.CheckInvariants()
}
