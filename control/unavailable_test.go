package control_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// I7: "no such" is returned only if the store reported it. If the store fails at any step of any call, the call
// reports that the store is unavailable, makes no partial change, and succeeds once the store is available again.
func TestI7AFailingStoreIsNeverAbsence(t *testing.T) {
	for name := range calls(newScene(controltest.New(t))) {
		for _, lose := range []bool{false, true} {
			sc := newScene(controltest.New(t))
			failEachStep(sc.Control, name, calls(sc)[name], lose)
		}
	}
}

func failEachStep(e *controltest.Control, name string, call func() error, lose bool) {
	for n := 1; n <= 100; n++ {
		before := e.Dump()
		e.Spy.FailFrom(n, lose)
		err := call()
		e.Spy.FailFrom(0, false)
		e.CheckInvariants()
		if err == nil {
			return // it needed fewer store calls than that
		}
		if dataset.KindOf(err) != dataset.ErrUnavailable || !errors.Is(err, controltest.ErrUnreachable) {
			e.Fatalf("%s, failing at step %d: %v (%v)", name, n, err, dataset.KindOf(err))
		}
		if cmp.Equal(before, e.Dump()) {
			continue
		}
		switch {
		case lose:
			return // done, though no caller learned of it
		case strings.HasPrefix(name, "submit "):
			if err := call(); err != nil { // done, and only the presentation of its result failed
				e.Fatalf("%s, asked again after step %d failed: %v", name, n, err)
			}
			return
		case name != "rebuild" && name != "accept store" && name != "commit purge": // these take several transactions
			e.Fatalf("%s, failing at step %d, changed something", name, n)
		}
	}
	e.Fatalf("%s asks the store more than a hundred times", name)
}

// The names of existing things and the errors for missing ones are collected once more without failures, so that the
// test above has something to compare with.
func TestAbsenceIsSaid(t *testing.T) {
	e := controltest.New(t)
	e.NewAgent("alpha")
	none := uuid.NewString()
	for name, err := range map[string]error{
		"volume":    controltest.ErrorOf(e.Volume(e.Ctx, "db")),
		"by prefix": controltest.ErrorOf(e.Volume(e.Ctx, none)),
		"snapshot":  controltest.ErrorOf(e.Snapshot(e.Ctx, "", none)),
		"operation": controltest.ErrorOf(e.Operation(e.Ctx, none, 0)),
		"profile":   controltest.ErrorOf(e.Profile(e.Ctx, "glod")),
		"purge":     controltest.ErrorOf(e.Submit(e.Ctx, api.Request{Kind: dataset.OpPurge, Volume: none})),
	} {
		if dataset.KindOf(err) != dataset.ErrNotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// If a caller leaves, it is not left open whether its change happened: those that wait for the change learn of it.
func TestCallerGoesAway(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	rev := e.Feed.Since(a.ID, 0).Rev
	ctx, cancel := context.WithCancel(e.Ctx)
	e.Spy.Before(cancel)
	if _, err := e.Submit(ctx, controltest.Create("db@gold")); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if n := e.Feed.Since(a.ID, rev); !n.Any {
		t.Error("the node's agent is not notified")
	}
	if len(a.OpenOperations()) != 1 {
		t.Error("not on record")
	}
	_, err := e.Submit(ctx, controltest.Create("db2@gold"))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	// The same if the store's answer is lost.
	rev = e.Feed.Since(a.ID, 0).Rev
	e.Spy.Before(func() { e.Spy.FailFrom(1, true) })
	_, err = e.Submit(e.Ctx, controltest.Create("db3@gold"))
	controltest.Refused(t, err, dataset.ErrUnavailable)
	e.Spy.FailFrom(0, false)
	if n := e.Feed.Since(a.ID, rev); !n.Any || len(a.OpenOperations()) != 2 {
		t.Errorf("%+v, %d open", n, len(a.OpenOperations()))
	}
	if diff := cmp.Diff(0, len(e.EventLog.Ring)); diff != "" {
		t.Errorf("events of what may not have happened: %s", diff)
	}
}

// A create wakes no agent, as its answer has all of it. An answer that is lost has nothing: the agent is woken.
func TestLostAnswerWakesTheAgent(t *testing.T) {
	for lost, want := range map[bool]bool{false: false, true: true} {
		e := controltest.New(t)
		a := e.NewAgent("alpha")
		a.MustCreate("first")
		op := a.MustPlan(controltest.Create("db"))
		changed, leave := e.Feed.Subscribe(a.ID)
		if lost {
			e.Spy.FailFrom(1, true)
		}
		if err := a.TryCommit(op); (err != nil) != lost {
			t.Fatalf("lost %t: %v", lost, err)
		}
		e.Spy.FailFrom(0, false)
		woken := false
		select {
		case <-changed:
			woken = true
		default:
		}
		if woken != want {
			t.Errorf("lost %t: it is woken: %t", lost, woken)
		}
		leave()
	}
}
