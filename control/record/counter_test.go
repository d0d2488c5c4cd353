package record_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// A clock that jumps ahead by years, while a service runs or not, destroys nothing in the trash and forgets no
// operation before its time. After the clock was set right, nothing is kept for longer either.
func TestClockAhead(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		e, a := controltest.OneNode(t)
		a.MustCreate("db")
		d := a.MustDelete("db")
		op := *e.MustSubmit(controltest.Create("slow")).Operation
		a.MustCommit(op)
		e.AdvanceAndRun(time.Hour)
		set := func(when time.Time) {
			e.Clock.Set(when)
			if restarted {
				e.Restart()
			}
			e.Round()
		}
		counted := 2 * time.Hour // that have passed, or may be reported to have passed
		left := func(state dataset.State, has bool) {
			t.Helper()
			st := e.CheckInvariants()
			if got := st.Datasets[d.ID].State; got != state {
				t.Errorf("restarted %t, at %s: the dataset is %q, not %q", restarted, e.Clock.Now(), got, state)
			}
			if _, ok := st.Operations[op.ID]; ok != has {
				t.Errorf("restarted %t, at %s: the operation is on record: %t", restarted, e.Clock.Now(), ok)
			}
		}
		set(controltest.Start.AddDate(14, 0, 0))
		left(dataset.StateTrashed, true)
		e.AdvanceAndRun(housekeeping.OperationRetention - counted - time.Nanosecond)
		left(dataset.StateTrashed, true)
		e.AdvanceAndRun(counted)
		e.AdvanceAndRun(housekeeping.ForgetInterval)
		left(dataset.StateTrashed, false)
		set(controltest.Start.AddDate(0, 0, 3))
		left(dataset.StateTrashed, false)
		e.AdvanceAndRun(72*time.Hour - housekeeping.OperationRetention - housekeeping.ForgetInterval - counted)
		left(dataset.StateTrashed, false)
		e.AdvanceAndRun(counted)
		left(dataset.StatePurging, false)
		var told []string
		e.OK(e.Events(e.Ctx, 0, false, func(ev api.Event) error {
			if ev.Type == "trash.hold" {
				told = append(told, ev.Detail)
			}
			return nil
		}))
		// A restarted service has its own events.
		if want := map[bool]int{false: 1, true: 0}[restarted]; len(told) != want {
			t.Errorf("restarted %t: told %q", restarted, told)
		}
	}
}

// A host that was off says why its trash is kept, and counts at most one hour.
func TestTrashOfAHostThatWasOff(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	d := a.MustDelete("db")
	e.Round()
	e.Clock.Set(controltest.Start.AddDate(0, 1, 0))
	e.Restart()
	e.Round()
	var told []string
	err := e.Events(e.Ctx, 0, false, func(ev api.Event) error {
		told = append(told, string(ev.Type)+" "+ev.Detail)
		return nil
	})
	if err != nil || len(told) != 1 || !strings.HasPrefix(told[0], "trash.hold the clock advanced 719h0m0s more than") {
		t.Errorf("told %q, %v", told, err)
	}
	e.AdvanceAndRun(71*time.Hour - time.Nanosecond)
	if got := e.CheckInvariants().Datasets[d.ID].State; got != dataset.StateTrashed {
		t.Errorf("%s", got)
	}
	e.AdvanceAndRun(time.Nanosecond)
	if got := e.CheckInvariants().Datasets[d.ID].State; got != dataset.StatePurging {
		t.Errorf("%s", got)
	}
}

// Restarts one after another lose no counted time, and a running service seldom writes the count to the store.
func TestCountOfTime(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	a.MustDelete("db")
	e.Round()
	e.Spy.Counted()
	for range 6 * 60 {
		e.AdvanceAndRun(time.Minute)
	}
	if _, txns, _ := e.Spy.Counted(); txns != 12 {
		t.Errorf("%d transactions in six hours", txns)
	}
	for range 6 * 60 {
		e.Restart()
		e.AdvanceAndRun(time.Minute)
	}
	if got, err := e.Uptime.RunTime(record.NewTx(e.Ctx, e.Ledger.Store)); err != nil || got != 12*time.Hour {
		t.Errorf("%s of 12 hours, %v", got, err)
	}
}

// A replica that stood by for longer than anything stays in the trash counts no time twice when it takes over: the
// time that it ran is in the mark of the replica that did the background work meanwhile.
func TestCountOfOneThatStoodBy(t *testing.T) {
	x := controltest.NewReplicas(t, 2)
	kept, stoodBy := x.On(x.Services[0]), x.On(x.Services[1])
	stoodBy.Uptime.Forget() // the store did not answer when it was started
	a := kept.NewAgent("alpha")
	kept.MustSubmit(controltest.Create("slow")) // which keeps the count running
	kept.AdvanceClock(240 * time.Hour)
	a.MustCreate("db")
	d := a.MustDelete("db")
	stoodBy.OK(stoodBy.Heartbeat(t.Context(), a.ID, api.Heartbeat{Incarnation: a.Incarnation}))
	stoodBy.Round()
	if got, err := stoodBy.Uptime.RunTime(record.NewTx(t.Context(), stoodBy.Ledger.Store)); err != nil || got != 240*time.Hour {
		t.Errorf("it counts %s of 240 hours, %v", got, err)
	}
	purgesAfter(stoodBy, d, 72*time.Hour)
}

// purgesAfter expects a dataset to be in the trash for the given time, and not longer.
func purgesAfter(e *controltest.Control, d dataset.Dataset, after time.Duration) {
	e.Helper()
	for _, step := range []struct {
		time time.Duration
		then dataset.State
	}{{after - time.Nanosecond, dataset.StateTrashed}, {time.Nanosecond, dataset.StatePurging}} {
		e.AdvanceClock(step.time)
		e.Memory.FullDue = e.Clock.Now()
		e.Round()
		var now dataset.Dataset
		if _, err := record.NewTx(e.Ctx, e.Ledger.Store).Get(record.DatasetKey(d.ID), &now); err != nil || now.State != step.then {
			e.Fatalf("%s on, of %s, it is %s and not %s, %v", step.time, after, now.State, step.then, err)
		}
	}
}

// through returns the same agent, connected to another service.
func through(a *controltest.Agent, e *controltest.Control) *controltest.Agent {
	b := *a
	b.Control = e
	return &b
}

// While nothing waits, the count is stopped for all replicas. A dataset that is deleted then, through whichever
// replica, has its full time ahead. A replica that has not learned that the count runs again puts no outdated stamp
// on record.
func TestCountStands(t *testing.T) {
	x := controltest.NewReplicas(t, 2)
	kept, stoodBy := x.On(x.Services[0]), x.On(x.Services[1])
	a := kept.NewAgent("alpha")
	b := through(a, stoodBy)
	stoodBy.OK(stoodBy.Heartbeat(t.Context(), a.ID, api.Heartbeat{Incarnation: a.Incarnation}))
	a.MustCreate("db")
	a.MustCreate("db2")
	for range 4 * 24 {
		kept.AdvanceAndRun(time.Hour)
	}
	before := x.Txns()
	for range 30 * 24 {
		kept.AdvanceAndRun(time.Hour)
	}
	if n := x.Txns() - before; n != 0 {
		t.Errorf("%d transactions while nothing waits", n)
	}
	d := b.MustDelete("db") // the replica that does the background work does not hear of it
	x.Clock.Advance(housekeeping.FullInterval)
	kept.Round()
	if m := kept.Uptime.Seen(); !m.Runs {
		t.Errorf("the count is stopped although something waits: %+v", m)
	}
	purgesAfter(kept, d, 72*time.Hour)
	purgesAfter(kept, b.MustDelete("db2"), 72*time.Hour)
}

// A stamp has the mark that is in the store when the stamp is written.
func TestStampOfAnOlderMark(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	a.MustCreate("other")
	e.AdvanceAndRun(housekeeping.OperationRetention + housekeeping.ForgetInterval)
	e.AdvanceAndRun(time.Hour)
	if m := e.Uptime.Seen(); m.Runs {
		t.Fatalf("the count is not stopped: %+v", m)
	}
	came := false
	e.Spy.Before(func() {
		came = true
		a.MustDelete("other")
		e.AdvanceClock(10 * time.Hour)
	})
	d := a.MustDelete("db")
	if !came {
		t.Fatal("nothing happened in between: the test tests nothing")
	}
	purgesAfter(e, d, 72*time.Hour)
}

// The first call to a store that was unavailable for hours may come from a replica that was restarted just then. No
// replica counts more of those hours than that one does.
func TestCountOverAnOutage(t *testing.T) {
	x := controltest.NewReplicas(t, 2)
	kept, late := x.On(x.Services[0]), x.On(x.Services[1])
	a := kept.NewAgent("alpha")
	b := through(a, late)
	a.MustCreate("db")
	kept.MustSubmit(controltest.Create("slow")) // which keeps the count running
	kept.AdvanceAndRun(time.Hour)
	late.Uptime.Restart()
	x.Clock.Advance(10 * time.Hour)
	d := b.MustDelete("db")
	purgesAfter(kept, d, 72*time.Hour)
}

// A service that remembers an outdated mark, and counts on from it, destroys nothing.
func TestActOfAnOlderMark(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	a.MustCreate("db@gold")
	moved := e.MustMove("db", a, b, "beta")
	a.MustCreate("old")
	d := a.MustDelete("old")
	e.Round()
	for _, act := range []func(context.Context) error{
		func(ctx context.Context) error { e.Housekeeper.ExpireTrash(ctx, e.Memory); return nil }, e.CopyKeeper.Expire, e.Housekeeper.ForgetOperations,
	} {
		e.Uptime.Mistake(1000 * time.Hour)
		e.OK(act(e.Ctx))
	}
	st := e.CheckInvariants()
	if got := st.Datasets[d.ID].State; got != dataset.StateTrashed || len(st.Operations) == 0 {
		t.Errorf("%s, %d operations", got, len(st.Operations))
	}
	if c := a.MustSync(0).Copies; len(c) != 1 || c[0].Dataset != moved.ID || c[0].Kind != dataset.CopyLeft {
		t.Errorf("%+v", c)
	}
}

// Nodes that are lost at different times count as lost at different times. The count stops only when the last one has
// been lost for long.
func TestCountBetweenLosses(t *testing.T) {
	e := controltest.New(t)
	mark := func() record.RunMark { return e.Uptime.Seen() }
	e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		return t.Put(record.UnreachableKey(uuid.New()), record.Unreachable{Since: e.Clock.Now()})
	}))
	e.AdvanceAndRun(time.Hour)
	if m := mark(); m.Runs || time.Duration(m.RunTime) <= record.MassLossWindow {
		t.Errorf("%+v", m)
	}
}
