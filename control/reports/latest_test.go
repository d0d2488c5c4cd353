package reports_test

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
)

// TestPoolEventsHaveMargin: a pool whose use varies around a threshold causes one event, and another one only after its
// use has fallen clearly.
func TestPoolEventsHaveMargin(t *testing.T) {
	pool := uuid.New()
	node := dataset.Node{ID: uuid.New(), Name: "alpha", Pools: []uuid.UUID{pool}}
	s := reports.New()
	for i, c := range []struct {
		used    int // in percent; below 0: offline, without a size
		want    []api.EventType
		comment string
	}{
		{80, nil, "enough space"},
		{85, []api.EventType{api.EventPoolFull}, "nearly full"},
		{84, nil, "below the threshold, within the margin"},
		{85, nil, "again at the threshold"},
		{83, nil, "within the margin"},
		{-1, []api.EventType{api.EventPoolOffline}, "offline"},
		{84, []api.EventType{api.EventPoolOnline}, "online again, within the margin"},
		{86, nil, "it was nearly full before"},
		{82, nil, "clearly below the threshold"},
		{85, []api.EventType{api.EventPoolFull}, "nearly full again"},
	} {
		st := dataset.PoolStatus{ID: pool, Online: true, Size: 100 * dataset.GiB, Free: dataset.Size(100-c.used) * dataset.GiB}
		if c.used < 0 {
			st = dataset.PoolStatus{ID: pool, Reason: "its disk is gone"}
		}
		out, err := s.RecordHeartbeat(node, api.Heartbeat{Pools: []dataset.PoolStatus{st}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		var got []api.EventType
		for _, ev := range out.Events {
			got = append(got, ev.Type)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("report %d, %s: events %v, want %v", i, c.comment, got, c.want)
		}
	}
}

// TestFullnessAtTheLimit: if as many full datasets are remembered as possible, those that have space again are
// forgotten nevertheless, and make room for others.
func TestFullnessAtTheLimit(t *testing.T) {
	id := func(n int) (id uuid.UUID) {
		binary.BigEndian.PutUint32(id[:], uint32(n)+1)
		return id
	}
	status := func(n int, is dataset.Fullness) dataset.DatasetStatus {
		return dataset.DatasetStatus{ID: id(n), Usage: &dataset.Usage{}, Fullness: is}
	}
	s := reports.New()
	report := func(node string, list ...dataset.DatasetStatus) []dataset.DatasetStatus {
		t.Helper()
		out, err := s.RecordHeartbeat(dataset.Node{ID: uuid.NewSHA1(uuid.Nil, []byte(node))}, api.Heartbeat{Datasets: list}, 0)
		if err != nil {
			t.Fatal(err)
		}
		return out.Fullness
	}
	var all []dataset.DatasetStatus
	for n := range reports.MaxRemembered {
		all = append(all, status(n, dataset.Full))
	}
	if got := report("alpha", all...); len(got) != len(all) {
		t.Fatalf("%d changes, want %d", len(got), len(all))
	}
	const extra = reports.MaxRemembered
	if got := report("beta", status(extra, dataset.Full)); len(got) != 0 {
		t.Errorf("one more than the limit: %+v, want no change", got)
	}
	if got := report("gamma", status(1, dataset.NearlyFull)); len(got) != 1 {
		t.Errorf("one changes at the limit: %+v, want it reported", got)
	}
	if got := report("gamma", status(0, dataset.NotFull)); len(got) != 1 || got[0].ID != id(0) {
		t.Errorf("one has space again: %+v, want it reported", got)
	}
	if got := report("beta", status(extra, dataset.Full)); len(got) != 1 {
		t.Errorf("after it made room: %+v, want the other reported", got)
	}
}

// TestReportsOfRemovedNodes: the reports of a removed node are forgotten, except those about a pool that another node
// has reported since. A node that has reported after the list was read is kept.
func TestReportsOfRemovedNodes(t *testing.T) {
	own, moved := uuid.New(), uuid.New()
	gone := dataset.Node{ID: uuid.New(), Name: "alpha", Pools: []uuid.UUID{own, moved}}
	stays := dataset.Node{ID: uuid.New(), Name: "beta", Pools: []uuid.UUID{moved}}
	s, id := reports.New(), uuid.New()
	report := func(n dataset.Node, now time.Duration) {
		t.Helper()
		h := api.Heartbeat{StoreDoubt: "an older epoch", Datasets: []dataset.DatasetStatus{{ID: id}}}
		for _, p := range n.Pools {
			h.Pools = append(h.Pools, dataset.PoolStatus{ID: p, Online: true})
		}
		if _, err := s.RecordHeartbeat(n, h, now); err != nil {
			t.Fatal(err)
		}
	}
	report(gone, 1)
	report(stays, 2)
	s.RetainNodes([]uuid.UUID{stays.ID}, 1)
	if !s.HasReported(gone.ID) {
		t.Error("a node that reported while the list was read was forgotten")
	}
	s.RetainNodes([]uuid.UUID{stays.ID}, 3)
	if s.HasReported(gone.ID) || s.Pool(own) != nil || s.Dataset(id, gone.ID) != nil {
		t.Error("reports of the removed node are kept")
	}
	if !s.HasReported(stays.ID) || s.Pool(moved) == nil || s.Dataset(id, stays.ID) == nil {
		t.Error("reports of the other node were forgotten")
	}
	s.ForgetNode(stays.ID)
	if s.HasReported(stays.ID) || s.Pool(moved) != nil || s.CheckTrust() != nil {
		t.Error("reports of the second node are kept")
	}
}

// TestProblemKeepsStateOfCopy: a node that has just started reports why it cannot refresh its copy, and not the state of
// the copy. A failover may still use the state that was reported before.
func TestProblemKeepsStateOfCopy(t *testing.T) {
	s := reports.New()
	node := dataset.Node{ID: uuid.New(), Name: "alpha"}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	state := dataset.Copy{
		Dataset: uuid.New(), Node: node.ID, Kind: dataset.CopyReplica, Epoch: 7, Snapshot: uuid.New(),
		Taken: at, OrderTime: at.Add(1), VerifiedAt: at.Add(2), VerifiedAtHome: at.Add(3),
	}
	s.RecordCopy(state, 0)
	empty := dataset.Copy{Dataset: state.Dataset, Node: node.ID, Kind: dataset.CopyReplica}
	later := state
	later.Epoch, later.Snapshot, later.Taken = 8, uuid.New(), at.Add(time.Hour)
	for _, c := range []struct{ report, want dataset.Copy }{{empty, state}, {later, later}, {empty, later}} {
		c.report.Problem, c.want.Problem = "its pool is offline", "its pool is offline"
		if _, err := s.RecordHeartbeat(node, api.Heartbeat{Copies: []dataset.Copy{c.report}}, 0); err != nil {
			t.Fatal(err)
		}
		if got, _ := s.Copy(node.ID, state.Dataset); got != c.want {
			t.Errorf("after the report %+v:\n%+v, want\n%+v", c.report, got, c.want)
		}
	}
}
