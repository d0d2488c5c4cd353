package control

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// A clock that goes ahead by years, under a service or while none runs, destroys
// nothing in the trash and forgets no operation before its time; set right again
// it keeps nothing for longer.
func TestClockAhead(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		e := newEnv(t)
		a := e.agent("alpha")
		a.create("db")
		d := a.delete("db")
		op := *e.submit(create("slow")).Operation
		a.commit(op)
		e.tick(time.Hour)
		set := func(when time.Time) {
			e.clock.Set(when)
			if restarted {
				e.restart()
			}
			e.rounds()
		}
		counted := 2 * time.Hour // that have passed, or may be said to have
		left := func(state dataset.State, has bool) {
			t.Helper()
			st := e.check()
			if got := st.datasets[d.ID].State; got != state {
				t.Errorf("restarted %t, at %s: the dataset is %q, not %q", restarted, e.clock.Now(), got, state)
			}
			if _, ok := st.operations[op.ID]; ok != has {
				t.Errorf("restarted %t, at %s: the operation is on record: %t", restarted, e.clock.Now(), ok)
			}
		}
		set(someday.AddDate(14, 0, 0))
		left(dataset.StateTrashed, true)
		e.tick(housekeeping.OperationKept - counted - time.Nanosecond)
		left(dataset.StateTrashed, true)
		e.tick(counted)
		e.tick(housekeeping.ForgetEvery)
		left(dataset.StateTrashed, false)
		set(someday.AddDate(0, 0, 3))
		left(dataset.StateTrashed, false)
		e.tick(72*time.Hour - housekeeping.OperationKept - housekeeping.ForgetEvery - counted)
		left(dataset.StateTrashed, false)
		e.tick(counted)
		left(dataset.StatePurging, false)
		var told []string
		if err := e.Events(e.ctx, 0, false, func(ev api.Event) error {
			if ev.Type == "trash.hold" {
				told = append(told, ev.Detail)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		// A service that is started again has its own events.
		if want := map[bool]int{false: 1, true: 0}[restarted]; len(told) != want {
			t.Errorf("restarted %t: told %q", restarted, told)
		}
	}
}

// A host that was off says why its trash stays, and counts no more than an hour.
func TestTrashOfAHostThatWasOff(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db")
	d := a.delete("db")
	e.rounds()
	e.clock.Set(someday.AddDate(0, 1, 0))
	e.restart()
	e.rounds()
	var told []string
	err := e.Events(e.ctx, 0, false, func(ev api.Event) error {
		told = append(told, ev.Type+" "+ev.Detail)
		return nil
	})
	if err != nil || len(told) != 1 || !strings.HasPrefix(told[0], "trash.hold the clock went 719h0m0s further") {
		t.Errorf("told %q, %v", told, err)
	}
	e.tick(71*time.Hour - time.Nanosecond)
	if got := e.check().datasets[d.ID].State; got != dataset.StateTrashed {
		t.Errorf("%s", got)
	}
	e.tick(time.Nanosecond)
	if got := e.check().datasets[d.ID].State; got != dataset.StatePurging {
		t.Errorf("%s", got)
	}
}

// Restarts one after another lose nothing of the count, and a service that goes on
// puts it in the store seldom.
func TestCountOfTime(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db")
	a.delete("db")
	e.rounds()
	e.spy.counted()
	for range 6 * 60 {
		e.tick(time.Minute)
	}
	if _, txns, _ := e.spy.counted(); txns != 12 {
		t.Errorf("%d transactions in six hours", txns)
	}
	for range 6 * 60 {
		e.restart()
		e.tick(time.Minute)
	}
	if got, err := e.Uptime.Read(record.NewTx(e.ctx, e.Ledger.Store)); err != nil || got != 12*time.Hour {
		t.Errorf("%s of 12 hours, %v", got, err)
	}
}

// A replica that stood by for longer than anything is in the trash counts no time twice when
// it takes over: what it ran is in the mark of the one that kept house meanwhile.
func TestCountOfOneThatStoodBy(t *testing.T) {
	x := newShared(t, 2)
	kept, stoodBy := x.env(x.list[0]), x.env(x.list[1])
	stoodBy.Uptime.Forget() // the store did not answer when it was started
	a := kept.agent("alpha")
	kept.submit(create("slow")) // which has the count go on
	kept.pass(240 * time.Hour)
	a.create("db")
	d := a.delete("db")
	if err := stoodBy.Heartbeat(t.Context(), a.id, api.Heartbeat{Incarnation: a.incarnation}); err != nil {
		t.Fatal(err)
	}
	stoodBy.rounds()
	if got, err := stoodBy.Uptime.Read(record.NewTx(t.Context(), stoodBy.Ledger.Store)); err != nil || got != 240*time.Hour {
		t.Errorf("it counts %s of 240 hours, %v", got, err)
	}
	stoodBy.purgesAfter(d, 72*time.Hour)
}

// purgesAfter expects a dataset to be in the trash for a time, and not for longer.
func (e *env) purgesAfter(d dataset.Dataset, after time.Duration) {
	e.Helper()
	for _, step := range []struct {
		time time.Duration
		then dataset.State
	}{{after - time.Nanosecond, dataset.StateTrashed}, {time.Nanosecond, dataset.StatePurging}} {
		e.pass(step.time)
		e.house.Full = e.clock.Now()
		e.rounds()
		var now dataset.Dataset
		if _, err := record.NewTx(e.ctx, e.Ledger.Store).Get(record.DatasetKey(d.ID), &now); err != nil || now.State != step.then {
			e.Fatalf("%s on, of %s, it is %s and not %s, %v", step.time, after, now.State, step.then, err)
		}
	}
}

// through is the same agent, that speaks to another service.
func (a *agent) through(e *env) *agent {
	b := *a
	b.env = e
	return &b
}

// While nothing waits the count stands, for all alike: what is deleted then, by whichever
// replica, has its whole time before it, and a replica that has not heard since that the
// count goes on puts no stamp of before.
func TestCountStands(t *testing.T) {
	x := newShared(t, 2)
	kept, stoodBy := x.env(x.list[0]), x.env(x.list[1])
	a := kept.agent("alpha")
	b := a.through(stoodBy)
	if err := stoodBy.Heartbeat(t.Context(), a.id, api.Heartbeat{Incarnation: a.incarnation}); err != nil {
		t.Fatal(err)
	}
	a.create("db")
	a.create("db2")
	for range 4 * 24 {
		kept.tick(time.Hour)
	}
	before := x.count()
	for range 30 * 24 {
		kept.tick(time.Hour)
	}
	if n := x.count() - before; n != 0 {
		t.Errorf("%d transactions while nothing waits", n)
	}
	d := b.delete("db") // which the one that keeps house does not hear of
	x.clock.Advance(housekeeping.FullEvery)
	kept.rounds()
	if m := kept.Uptime.Seen(); !m.Runs {
		t.Errorf("it stands though something waits: %+v", m)
	}
	kept.purgesAfter(d, 72*time.Hour)
	kept.purgesAfter(b.delete("db2"), 72*time.Hour)
}

// A stamp is of the mark that is in the store when it is put there.
func TestStampOfAnOlderMark(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db")
	a.create("other")
	e.tick(housekeeping.OperationKept + housekeeping.ForgetEvery)
	e.tick(time.Hour)
	if m := e.Uptime.Seen(); m.Runs {
		t.Fatalf("it does not stand: %+v", m)
	}
	came := false
	e.spy.first(func() {
		came = true
		a.delete("other")
		e.pass(10 * time.Hour)
	})
	d := a.delete("db")
	if !came {
		t.Fatal("nothing came between: the test tests nothing")
	}
	e.purgesAfter(d, 72*time.Hour)
}

// What a store that was away for hours is told of first may be of a replica that was started
// just then: nobody counts more of those hours than that one.
func TestCountOverAnOutage(t *testing.T) {
	x := newShared(t, 2)
	kept, late := x.env(x.list[0]), x.env(x.list[1])
	a := kept.agent("alpha")
	b := a.through(late)
	a.create("db")
	kept.submit(create("slow")) // which has the count go on
	kept.tick(time.Hour)
	late.Uptime.Restart()
	x.clock.Advance(10 * time.Hour)
	d := b.delete("db")
	kept.purgesAfter(d, 72*time.Hour)
}

// Whoever remembers a mark that is no more, and counts further by it, destroys nothing.
func TestActOfAnOlderMark(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	a.create("db@gold")
	moved := e.moved("db", a, b, "beta")
	a.create("old")
	d := a.delete("old")
	e.rounds()
	for _, act := range []func(context.Context) error{
		func(ctx context.Context) error { e.Housekeeper.ExpireTrash(ctx, e.house); return nil }, e.CopyKeeper.Expire, e.Housekeeper.ForgetOperations,
	} {
		e.Uptime.Mistake(1000 * time.Hour)
		if err := act(e.ctx); err != nil {
			t.Fatal(err)
		}
	}
	st := e.check()
	if got := st.datasets[d.ID].State; got != dataset.StateTrashed || len(st.operations) == 0 {
		t.Errorf("%s, %d operations", got, len(st.operations))
	}
	if c := a.sync(0).Copies; len(c) != 1 || c[0].Dataset != moved.ID || c[0].Kind != dataset.CopyLeft {
		t.Errorf("%+v", c)
	}
}

// Nodes that are lost at different times are so by the count as well, which stands only when
// the last one is long gone.
func TestCountBetweenLosses(t *testing.T) {
	e := newEnv(t)
	mark := func() record.RunMark { return e.Uptime.Seen() }
	if _, err := e.Ledger.Update(e.ctx, func(t *record.Tx) error { return t.Put(record.AwayKey(uuid.New()), record.Away{Since: e.clock.Now()}) }); err != nil {
		t.Fatal(err)
	}
	e.tick(time.Hour)
	if m := mark(); m.Runs || time.Duration(m.Ran) <= membership.MassTime {
		t.Errorf("%+v", m)
	}
}
