package control

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// What a node was to destroy ends with the node, and what others have of it when they have
// destroyed that: a removed node says nothing any more.
func TestRemovedNodeWasToDestroy(t *testing.T) {
	e, _ := newCluster(t)
	a, b := e.agent("alpha"), e.agent("beta")
	b.create("db")
	d := e.moved("db", b, a, "alpha") // beta keeps a copy
	for i := range record.SnapshotsAtOnce + 1 {
		a.snapshot("db", fmt.Sprint("s", i))
	}
	alone := a.create("web")
	for _, d := range []dataset.Dataset{d, alone} {
		a.delete(d.Volume)
		e.submit(api.Request{ID: uuid.New(), Kind: dataset.OpPurge, Volume: d.ID.String()})
	}
	_, err := e.RemoveNode(e.ctx, "alpha", false)
	refused(t, err, dataset.ErrInUse, "db (deleted, "+d.ID.String()[:8]+")", "--force")
	if _, err := e.RemoveNode(e.ctx, "alpha", true); err != nil {
		t.Fatal(err)
	}
	st := e.check()
	if left, there := st.datasets[d.ID]; !there || left.Home != uuid.Nil || len(left.Copies) != 1 || len(st.datasets) != 1 || len(st.snapshots) != 0 {
		t.Errorf("left: %+v, %d snapshots", st.datasets, len(st.snapshots))
	}
	if _, err := e.RemoveNode(e.ctx, "alpha", true); dataset.KindOf(err) != dataset.ErrInvalid {
		t.Errorf("the node is still on record: %v", err)
	}
	if err := e.Copied(e.ctx, b.id, api.Copied{Incarnation: b.incarnation, Copy: dataset.Copy{Dataset: d.ID, Node: b.id}, Gone: true}); err != nil {
		t.Fatal(err)
	}
	if st := e.check(); len(st.datasets) != 0 {
		t.Errorf("left at last: %+v", st.datasets)
	}
}
