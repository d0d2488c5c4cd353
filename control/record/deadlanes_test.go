package record_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/record"
)

// The entries that a stopped service wrote for others are removed after the others had time to read them.
func TestLanesOfTheDeadGo(t *testing.T) {
	x := controltest.NewReplicas(t, 3)
	keeper, dead, reader := x.Services[0], x.Services[1], x.Services[2]
	node := uuid.New()
	say := func(s *control.Service) {
		if _, err := s.Ledger.Update(t.Context(), func(x *record.Tx) error { x.WakeNode(node); return x.Put("names/a", record.Claim{ID: uuid.New()}) }); err != nil {
			t.Fatal(err)
		}
	}
	var h record.LanePositions
	hear := func() (full bool) {
		t.Helper()
		rev := reader.Feed.Since(node, 0).Rev
		if err := reader.Ledger.ReadNotices(t.Context(), &h); err != nil {
			t.Fatal(err)
		}
		return reader.Feed.Since(node, rev).Full
	}
	hear()
	say(keeper)
	say(dead)
	lanes := func() (of []string) {
		list, err := x.Store.List(t.Context(), record.RevPrefix, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if e.Key == record.RemovedLanesKey {
				continue
			}
			of = append(of, strings.Split(e.Key, "/")[1])
		}
		return of
	}
	ctx, house := record.AsHousekeeper(t.Context()), keeper.Housekeeper.NewMemory()
	forget := func() {
		t.Helper()
		x.TakePart(keeper)
		if mine, err := keeper.Members.AcquireHousekeeping(t.Context()); !mine || err != nil {
			t.Fatal(mine, err)
		}
		if err := keeper.Housekeeper.ForgetServices(ctx, house); err != nil {
			t.Fatal(err)
		}
	}
	forget()
	if len(lanes()) != 2 {
		t.Fatalf("%v: they are removed at once", lanes())
	}
	if hear() {
		t.Error("it reports a loss, although the lane had all changes")
	}
	forget()
	if got := lanes(); len(got) != 1 || got[0] != keeper.Ledger.Replica().String() {
		t.Fatalf("%v", got)
	}
	if hear() {
		t.Error("it reports a loss, although it had read all entries")
	}
	// A service that did not read for that long does not know what it missed.
	say(dead)
	hear()
	x.Clock.Advance(housekeeping.FullInterval)
	x.AwaitEnd(record.HousekeeperKey)
	forget()
	forget()
	if !hear() {
		t.Error("it does not report that it may have missed something")
	}
}
