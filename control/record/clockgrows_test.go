package record_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
)

// The clock never goes back by itself. It does not when lanes are dropped, not even when a running service's lane is
// dropped by mistake. Each change of a home or a lease advances it.
func TestClockGrows(t *testing.T) {
	x := controltest.NewReplicas(t, 3)
	s, keeper := x.Services[0], x.Services[1]
	n := x.On(s).NewAgent("n1")
	last := uint64(0)
	grows := func(what string, by bool) {
		t.Helper()
		_, clock, err := keeper.Ledger.ReadLanes(t.Context(), nil)
		if err != nil || clock < last || by && clock == last {
			t.Fatalf("%s: the clock is %d after %d, %v", what, clock, last, err)
		}
		last = clock
	}
	grows("register", true)
	n.MustCreate("db@fleeting")
	grows("create", true)
	if _, err := keeper.Ledger.Update(t.Context(), func(t *record.Tx) error { t.Delete(record.LeaseKey(uuid.New())); return nil }); err != nil {
		t.Fatal(err)
	}
	grows("a lease that nobody waits for", true)
	n.MustPurge(n.MustDelete("db"))
	grows("purge", true)

	h := keeper.Housekeeper.NewMemory()
	for range 2 { // no service is recorded as running, so all lanes are treated as abandoned
		if err := keeper.Housekeeper.ForgetServices(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		grows("lanes are dropped", false)
	}
	if list, err := x.Store.List(t.Context(), record.RevPrefix, "", 0); err != nil || len(list) != 1 || list[0].Key != record.RemovedLanesKey {
		t.Fatalf("lanes that are left: %v, %v", list, err)
	}
	// Their service still runs: it continues in another lane.
	n.MustCreate("again")
	grows("create after that", true)
	if x.Halted() {
		t.Error("a dropped lane is taken for a restored store")
	}
}
