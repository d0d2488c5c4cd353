package control

import (
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
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
		e.tick(operationKept - counted - time.Nanosecond)
		left(dataset.StateTrashed, true)
		e.tick(counted)
		e.tick(forgetEvery)
		left(dataset.StateTrashed, false)
		set(someday.AddDate(0, 0, 3))
		left(dataset.StateTrashed, false)
		e.tick(72*time.Hour - operationKept - forgetEvery - counted)
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
	if got, err := e.hasRun(e.ctx); err != nil || got != 12*time.Hour {
		t.Errorf("%s of 12 hours, %v", got, err)
	}
}

// A replica that stood by for longer than anything is in the trash counts no time twice when
// it takes over: what it ran is in the mark of the one that kept house meanwhile.
func TestCountOfOneThatStoodBy(t *testing.T) {
	x := newShared(t, 2)
	kept, stoodBy := x.env(x.list[0]), x.env(x.list[1])
	stoodBy.ran.known = false // the store did not answer when it was started
	kept.tick(0)
	for range 10 * 24 {
		kept.tick(time.Hour)
	}
	a := kept.agent("alpha")
	a.create("db")
	d := a.delete("db")
	state := func() dataset.State {
		t.Helper()
		var now dataset.Dataset
		if _, err := newTx(t.Context(), stoodBy.store).get(datasetKey(d.ID), &now); err != nil {
			t.Fatal(err)
		}
		return now.State
	}
	if err := stoodBy.Heartbeat(t.Context(), a.id, api.Heartbeat{Incarnation: a.incarnation}); err != nil {
		t.Fatal(err)
	}
	stoodBy.rounds()
	if got, err := stoodBy.hasRun(t.Context()); err != nil || got != 240*time.Hour {
		t.Errorf("it counts %s of 240 hours, %v", got, err)
	}
	stoodBy.tick(72*time.Hour - time.Nanosecond)
	if got := state(); got != dataset.StateTrashed {
		t.Errorf("before its time the dataset is %q", got)
	}
	stoodBy.tick(time.Nanosecond)
	if got := state(); got != dataset.StatePurging {
		t.Errorf("after its time the dataset is %q", got)
	}
}
