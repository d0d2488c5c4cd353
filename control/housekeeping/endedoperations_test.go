package housekeeping_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
)

// However many operations end within a day, only a fixed number of the latest stays on record. The store's file only
// grows to what they need, because the room of forgotten operations is used again.
func TestEndedOperationsAreBounded(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db@gold")
	cancelled := *e.MustSubmit(controltest.Create("never")).Operation
	if _, err := e.CancelOperation(e.Ctx, cancelled.ID.String()); err != nil {
		t.Fatal(err)
	}
	running := *e.MustSubmit(controltest.Create("slow")).Operation
	e.Round()
	protect, last := false, uuid.Nil
	const perRound = 500 // as if 25 ended each second
	end := func(n int) {
		for range n / perRound {
			for range perRound {
				protect = !protect
				last = e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: &protect}).Operation.ID
			}
			e.AdvanceAndRun(membership.HousekeepingInterval)
		}
	}
	size := func() int64 { return e.Spy.Store.(*bolt.Store).Stats().FileBytes }
	end(housekeeping.MaxEndedOperations + 2*housekeeping.ForgetAfter)
	first := size()
	end(housekeeping.MaxEndedOperations)
	st := e.CheckInvariants()
	if n := len(st.Operations); n > housekeeping.MaxEndedOperations+housekeeping.ForgetAfter+1 || n < housekeeping.MaxEndedOperations {
		t.Errorf("%d operations are on record", n)
	}
	for what, id := range map[string]uuid.UUID{"cancelled": cancelled.ID, "running": running.ID, "last": last} {
		if _, there := st.Operations[id]; !there {
			t.Errorf("the %s operation was forgotten", what)
		}
	}
	t.Logf("the store's file has %d bytes after %d operations and %d after %d", first, housekeeping.MaxEndedOperations+2*housekeeping.ForgetAfter, size(), 2*housekeeping.MaxEndedOperations+2*housekeeping.ForgetAfter)
	if now := size(); now > first+first/4 {
		t.Errorf("the store's file grew from %d to %d bytes", first, now)
	}
	a.DoWork()
}
