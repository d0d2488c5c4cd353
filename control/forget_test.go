package control

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
)

// Of too many records the oldest are surplus, by number and by bytes; those of cancelled operations only
// once nothing else is left.
func TestSurplus(t *testing.T) {
	record := func(ran time.Duration, bytes int, cancelled bool) endedRecord {
		return endedRecord{key: fmt.Sprint(int64(ran)), bytes: bytes, ran: ran, cancelled: cancelled}
	}
	records := []endedRecord{
		record(3, 10, false), record(1, 10, true), record(5, 10, false), record(2, 10, false), record(4, 30, false),
	}
	for _, c := range []struct {
		most, bytes int
		want        []string // the first to go last
	}{
		{5, 70, nil},
		{4, 70, []string{"2"}},
		{2, 70, []string{"4", "3", "2"}},
		{5, 69, []string{"2"}},
		{5, 49, []string{"4", "3", "2"}},
		{1, 70, []string{"5", "4", "3", "2"}},
		{0, 70, []string{"1", "5", "4", "3", "2"}},
		{5, 9, []string{"1", "5", "4", "3", "2"}},
	} {
		var got []string
		for _, r := range surplus(records, c.most, c.bytes) {
			got = append(got, r.key)
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%d and %d bytes: %v are surplus, want %v", c.most, c.bytes, got, c.want)
		}
	}
}

// However many operations end within a day, so many of the latest stay on record, and the store's file
// stays as large as they are: what is forgotten makes room for what comes.
func TestEndedOperationsAreBounded(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db@gold")
	cancelled := *e.submit(create("never")).Operation
	if _, err := e.CancelOperation(e.ctx, cancelled.ID.String()); err != nil {
		t.Fatal(err)
	}
	running := *e.submit(create("slow")).Operation
	e.rounds()
	protect, last := false, uuid.Nil
	const perRound = 500 // as if 25 ended each second
	end := func(n int) {
		for range n / perRound {
			for range perRound {
				protect = !protect
				last = e.submit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: &protect}).Operation.ID
			}
			e.tick(membership.HouseEvery)
		}
	}
	size := func() int64 { return e.spy.Store.(*bolt.Store).Stats().FileBytes }
	end(endedMost + 2*forgetAfter)
	first := size()
	end(endedMost)
	st := e.check()
	if n := len(st.operations); n > endedMost+forgetAfter+1 || n < endedMost {
		t.Errorf("%d operations are on record", n)
	}
	for what, id := range map[string]uuid.UUID{"cancelled": cancelled.ID, "running": running.ID, "last": last} {
		if _, there := st.operations[id]; !there {
			t.Errorf("the %s operation was forgotten", what)
		}
	}
	t.Logf("the store's file has %d bytes after %d operations and %d after %d", first, endedMost+2*forgetAfter, size(), 2*endedMost+2*forgetAfter)
	if now := size(); now > first+first/4 {
		t.Errorf("the store's file grew from %d to %d bytes", first, now)
	}
	a.work()
}
