package reports_test

import (
	"encoding/binary"
	"slices"
	"testing"

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
