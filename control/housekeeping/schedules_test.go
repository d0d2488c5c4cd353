package housekeeping_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

func scheduled(a *controltest.Agent) (kinds []dataset.OpKind) {
	for _, op := range a.OpenOperations() {
		kinds = append(kinds, op.Kind)
	}
	return kinds
}

// wantDue fails the test unless the given number of operations waits for the agent.
func wantDue(a *controltest.Agent, want int, when string) {
	a.Helper()
	if got := a.OpenOperations(); len(got) != want {
		a.Fatalf("%s: got %d operations %+v, want %d", when, len(got), got, want)
	}
}

func TestSchedule(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db@gold") // every quarter of an hour
	a.MustCreate("plain@silver")
	e.Round()
	wantDue(a, 0, "a new volume")
	e.AdvanceAndRun(14 * time.Minute)
	wantDue(a, 0, "before the time")
	for i := range 3 {
		e.AdvanceAndRun(time.Minute)
		for range 3 {
			e.Round() // more often than due
		}
		open := a.OpenOperations()
		if len(open) != 1 || open[0].Kind != dataset.OpSnapshot || open[0].Snapshot.Kind != dataset.SnapshotScheduled || open[0].Volume != "db" {
			t.Fatalf("%d: %+v", i, open)
		}
		a.DoWork()
		e.AdvanceAndRun(14 * time.Minute)
	}
	if v := e.MustVolume("db"); v.Snapshots != 3 {
		t.Errorf("%d snapshots", v.Snapshots)
	}
	if len(e.Failures) != 0 {
		t.Errorf("%v", e.Failures)
	}
	e.CheckInvariants()
}

// A8: a host that was down makes up for missed snapshots once, not N times. The same applies to a control service.
func TestScheduleCatchesUpOnce(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db@gold")
	e.Round()
	// The node is unreachable. Only one operation waits for it.
	for range 20 {
		e.AdvanceAndRun(15 * time.Minute)
	}
	wantDue(a, 1, "while the node is away")
	// Nor do more wait after control has restarted.
	e.Restart()
	for range 3 {
		e.AdvanceAndRun(15 * time.Minute)
	}
	wantDue(a, 1, "while the node is away")
	a.DoWork()
	e.AdvanceAndRun(15 * time.Minute)
	wantDue(a, 1, "when the node is back")
	a.DoWork()
	// Control was down for a day.
	e.Restart()
	e.AdvanceAndRun(24 * time.Hour)
	e.Round()
	wantDue(a, 1, "after a day without control")
	a.DoWork()
	e.Restart()
	e.Round()
	wantDue(a, 0, "after another restart")
	e.CheckInvariants()
}

// Two services on one store request the same snapshot.
func TestScheduleOfTwoServices(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db@gold")
	e.Round()
	other := &controltest.Control{TB: t, Ctx: e.Ctx, Spy: e.Spy, Clock: e.Clock, ProfileSet: e.ProfileSet}
	other.Restart()
	defer other.Service.Close()
	other.Round()
	for range 3 {
		e.Clock.Advance(15 * time.Minute)
		e.Round()
		other.Round()
		wantDue(a, 1, "with two services")
		a.DoWork()
		other.Round()
	}
}

// A snapshot that failed or was cancelled is due again at the next time.
func TestScheduleAfterFailure(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db@gold")
	e.Round()
	e.AdvanceAndRun(15 * time.Minute)
	op := a.OpenOperations()[0]
	op.Problem = dataset.ProblemOf(dataset.ErrNoSpace)
	a.MustCommit(op)
	e.Round()
	e.Restart()
	e.Round()
	wantDue(a, 0, "right after the failure")
	e.AdvanceAndRun(15 * time.Minute)
	wantDue(a, 1, "at the next time")
	if _, err := e.CancelOperation(e.Ctx, a.OpenOperations()[0].ID.String()); err != nil {
		t.Fatal(err)
	}
	e.AdvanceAndRun(15 * time.Minute)
	wantDue(a, 1, "at the time after that")
}

// Volumes come, go and change their profile between two rounds.
func TestScheduleFollowsChanges(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db@gold")
	a.MustCreate("other@silver", "fs=xfs")
	e.Round()
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Profile: "fleeting"})
	e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "other", Profile: "gold"})
	a.DoWork() // the volume grows
	a.MustCreate("third@gold")
	e.Round()
	e.AdvanceAndRun(15 * time.Minute)
	got := map[string]bool{}
	for _, op := range a.OpenOperations() {
		got[op.Volume] = true
	}
	if len(got) != 2 || !got["other"] || !got["third"] {
		t.Errorf("due: %v", got)
	}
	a.DoWork()
	a.MustDelete("third")
	d := a.MustDelete("db")
	a.MustPurge(d)
	e.AdvanceAndRun(15 * time.Minute)
	if open := a.OpenOperations(); len(open) != 1 || open[0].Volume != "other" {
		t.Errorf("due: %+v", open)
	}
	if len(e.Failures) != 0 || len(e.Memory.Plans) != 1 {
		t.Errorf("%v, %d plans", e.Failures, len(e.Memory.Plans))
	}
}

// If one volume has an invalid schedule or a damaged record, the other volumes still get their snapshots.
func TestScheduleOfOthers(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	for i, name := range []string{"aa", "bb", "cc", "dd"} {
		op := a.MustPlan(controltest.Create(name + "@gold"))
		if i%2 == 0 {
			op.DatasetRecord.Profile.Snapshots.Schedule = "every now and then"
		}
		a.MustCommit(op)
	}
	broken := a.MustCreate("ee@gold")
	if _, err := e.Spy.Txn(e.Ctx, nil, spoilt(record.DatasetKey(broken.ID), `{"id":`)); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		e.Round()
	}
	e.AdvanceAndRun(15 * time.Minute)
	wantDue(a, 2, "beside volumes without a schedule")
	if len(e.Failures) != 3 { // one for each
		t.Errorf("%d failures: %v", len(e.Failures), e.Failures)
	}
}

func TestRetentionOfScheduled(t *testing.T) {
	e := controltest.New(t)
	p := e.ProfileSet.ByName["gold"]
	p.Snapshots.Keep = dataset.Keep{Last: 3}
	e.ProfileSet.ByName["gold"] = p
	a := e.NewAgent("alpha")
	a.MustCreate("db@gold")
	manual := a.MustSnapshot("db", "mine")
	e.Round()
	for range 8 {
		e.AdvanceAndRun(15 * time.Minute)
		a.DoWork()
		e.Round()
		a.DoWork()
	}
	list, err := e.Snapshots(e.Ctx, "db", api.Page{})
	if err != nil || len(list.Items) != 4 || list.Items[0].ID != manual.ID {
		t.Fatalf("%d snapshots, %v", len(list.Items), err)
	}
	// While the node is unreachable, a removal is requested only once.
	e.AdvanceAndRun(15 * time.Minute)
	a.DoWork()
	for range 5 {
		e.Round()
		e.Restart()
		e.Round()
	}
	if got := scheduled(a); len(got) != 1 || got[0] != dataset.OpSnapshotDelete {
		t.Errorf("to do: %v", got)
	}
	e.CheckInvariants()
}

func spoilt(key, value string) []storeWrite { return []storeWrite{{Key: key, Value: []byte(value)}} }

// A round in which nothing changed reads nothing, however many volumes exist.
func TestQuietRounds(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	for range 50 {
		a.MustCreate("db" + uuid.NewString() + "@gold")
	}
	a.MustCreate("old")
	a.MustDelete("old")
	e.Round()
	e.Round()
	e.Spy.Counted()
	for range 10 {
		e.AdvanceAndRun(membership.HousekeepingInterval)
		if reads, txns, _ := e.Spy.Counted(); reads+txns != 0 {
			t.Errorf("a quiet round costs %d reads and %d transactions", reads, txns)
		}
	}
	e.AdvanceAndRun(housekeeping.FullInterval) // a full round reads the listed records, but no snapshots
	if reads, txns, _ := e.Spy.Counted(); reads > 2 || txns != 0 {
		t.Errorf("a full round costs %d reads and %d transactions", reads, txns)
	}
	a.MustCreate("one-more")
	e.Spy.Counted()
	e.Round()
	if reads, _, _ := e.Spy.Counted(); reads > 3 {
		t.Errorf("one change costs a round %d reads", reads)
	}
}

// A clock was far ahead, as at a boot before the network is up, and is set back. A volume gets its snapshots without
// waiting for the time that the clock had, also after a restart.
func TestClockSetBack(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		e := controltest.New(t)
		a := e.NewAgent("alpha")
		a.MustCreate("db@gold")
		e.Round()
		const ahead = 1000 * time.Hour
		e.AdvanceAndRun(ahead)
		if got := scheduled(a); len(got) != 1 {
			t.Fatalf("to do: %v", got)
		}
		a.DoWork()
		e.Round()
		e.Clock.Advance(-ahead)
		if restarted {
			e.Restart()
		}
		e.Round()
		e.AdvanceAndRun(15 * time.Minute) // it was made up for before
		e.AdvanceAndRun(15 * time.Minute)
		if got := scheduled(a); len(got) != 1 {
			t.Errorf("restarted %t: to do: %v", restarted, got)
		}
	}
}

// The same for verifications: control does not wait for the time at which one is due by the clock that was ahead.
func TestClockSetBackDuringVerifications(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		e, a, _ := newTested(t)
		verifications(e, a, 30*time.Hour, 30*time.Hour)
		const ahead = 1000 * time.Hour
		open := verifications(e, a, ahead, ahead)
		if len(open) != 1 {
			t.Fatalf("while the clock is ahead: %+v", open)
		}
		endVerification(a, open[0], nil)
		verifications(e, a, time.Hour, 10*time.Minute)
		e.Clock.Advance(-ahead)
		if restarted {
			e.Restart()
		}
		if open := verifications(e, a, time.Hour, 10*time.Minute); len(open) != 1 {
			t.Errorf("restarted %t: got %+v", restarted, open)
		}
	}
}

// A service that stops while it requests a snapshot reports no failure.
func TestStopDuringSnapshots(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db@gold")
	e.Round()
	ctx, cancel := context.WithCancel(e.Ctx)
	e.Clock.Advance(15 * time.Minute)
	e.Spy.Before(func() {
		cancel()
		e.Spy.FailFrom(1, false)
	})
	e.Housekeeper.Round(ctx, e.Memory, e.Clock.Now())
	e.Spy.FailFrom(0, false)
	if ctx.Err() == nil || len(e.Failures) != 0 {
		t.Errorf("context: %v, failures: %v", ctx.Err(), e.Failures)
	}
	e.Round()
	wantDue(a, 1, "the next round")
}
