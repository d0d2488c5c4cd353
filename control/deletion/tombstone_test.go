package deletion_test

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// What a node was to destroy is removed from the records with the node. What other nodes have of it is removed once
// they have destroyed it. A removed node reports nothing any more.
func TestRemovedNodeWasToDestroy(t *testing.T) {
	e, _ := controltest.NewWithAuthority(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	b.MustCreate("db")
	d := e.MustMove("db", b, a, "alpha") // beta keeps a copy
	for i := range record.SnapshotsAtOnce + 1 {
		a.MustSnapshot("db", fmt.Sprint("s", i))
	}
	alone := a.MustCreate("web")
	for _, d := range []dataset.Dataset{d, alone} {
		a.MustDelete(d.Volume)
		e.MustSubmit(api.Request{ID: uuid.New(), Kind: dataset.OpPurge, Volume: d.ID.String()})
	}
	_, err := e.RemoveNode(e.Ctx, "alpha", api.NodeRemoval{})
	controltest.Refused(t, err, dataset.ErrInUse, "db (deleted, "+d.ID.String()[:8]+")", "--force")
	if _, err := e.RemoveNode(e.Ctx, "alpha", api.NodeRemoval{Force: true}); err != nil {
		t.Fatal(err)
	}
	st := e.CheckInvariants()
	if left, there := st.Datasets[d.ID]; !there || left.Home != uuid.Nil || len(left.Copies) != 1 || len(st.Datasets) != 1 || len(st.Snapshots) != 0 {
		t.Errorf("left: %+v, %d snapshots", st.Datasets, len(st.Snapshots))
	}
	if _, err := e.RemoveNode(e.Ctx, "alpha", api.NodeRemoval{Force: true}); dataset.KindOf(err) != dataset.ErrInvalid {
		t.Errorf("the node is still on record: %v", err)
	}
	if err := e.ReportCopy(e.Ctx, b.ID, api.CopyReport{Incarnation: b.Incarnation, Copy: dataset.Copy{Dataset: d.ID, Node: b.ID}, Removed: true}); err != nil {
		t.Fatal(err)
	}
	if st := e.CheckInvariants(); len(st.Datasets) != 0 {
		t.Errorf("left at the end: %+v", st.Datasets)
	}
}
