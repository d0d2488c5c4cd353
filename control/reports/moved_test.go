package reports

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A volume that has just moved is shown with what its previous home reported of its data, until the new home reports
// it. That does not count as a report of the new home: it decides whether copies may be removed.
func TestStatusOfMovedDataset(t *testing.T) {
	l, from, to := New(), dataset.Node{ID: uuid.New()}, dataset.Node{ID: uuid.New()}
	id, other := uuid.New(), uuid.New()
	beat := func(n dataset.Node, st dataset.DatasetStatus) {
		t.Helper()
		if _, err := l.RecordHeartbeat(n, api.Heartbeat{Datasets: []dataset.DatasetStatus{st}}, 0); err != nil {
			t.Fatal(err)
		}
	}
	l.RecordMoved(other, from.ID, to.ID)
	if st := l.Shown(other, to.ID); st != nil {
		t.Errorf("a dataset that its previous home has not reported: %+v", st)
	}
	beat(from, dataset.DatasetStatus{ID: id, Mounted: true, Used: new(dataset.Size(7)), Mounts: []dataset.Mount{{ID: "m"}}, Problem: "p"})
	l.RecordMoved(id, from.ID, to.ID)
	if st := l.Shown(id, to.ID); st == nil || *st.Used != 7 || st.Mounted || st.Problem != "" || len(st.Mounts) > 0 {
		t.Errorf("after the move: %+v", st)
	}
	if st := l.Shown(id, other); st != nil {
		t.Errorf("after another move: %+v", st)
	}
	l.RecordMoved(id, to.ID, other)
	if st := l.Shown(id, other); st == nil || *st.Used != 7 {
		t.Errorf("after two moves: %+v", st)
	}
	l.RecordMoved(id, other, to.ID)
	if st := l.Dataset(id, to.ID); st != nil {
		t.Errorf("the new home has not reported it: %+v", st)
	}
	beat(to, dataset.DatasetStatus{ID: id, Used: new(dataset.Size(9))})
	l.RecordMoved(id, other, to.ID)
	if st := l.Shown(id, to.ID); st == nil || *st.Used != 9 {
		t.Errorf("after the report of the new home: %+v", st)
	}
	if len(l.moved) > 0 {
		t.Errorf("left: %v", l.moved)
	}
}
