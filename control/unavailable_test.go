package control

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// I7: "no such" is only said when the store said so. Every call, with the store
// failing at each of its steps, says that the store is away, changes nothing in
// part, and succeeds when the store is back.
func TestI7AFailingStoreIsNeverAbsence(t *testing.T) {
	for name := range calls(newScene(newEnv(t))) {
		for _, lose := range []bool{false, true} {
			sc := newScene(newEnv(t))
			failEachStep(sc.env, name, calls(sc)[name], lose)
		}
	}
}

func failEachStep(e *env, name string, call func() error, lose bool) {
	for n := 1; n <= 100; n++ {
		before := e.dump()
		e.spy.fail(n, lose)
		err := call()
		e.spy.fail(0, false)
		e.check()
		if err == nil {
			return // it needed fewer calls than that
		}
		if dataset.KindOf(err) != dataset.ErrUnavailable || !errors.Is(err, errAway) {
			e.Fatalf("%s, failing at step %d: %v (%v)", name, n, err, dataset.KindOf(err))
		}
		if cmp.Equal(before, e.dump()) {
			continue
		}
		switch {
		case lose:
			return // done, though nobody heard of it
		case strings.HasPrefix(name, "submit "):
			if err := call(); err != nil { // done, and only its presentation failed
				e.Fatalf("%s, asked again after step %d failed: %v", name, n, err)
			}
			return
		case name != "rebuild" && name != "commit purge": // which take several transactions
			e.Fatalf("%s, failing at step %d, changed something", name, n)
		}
	}
	e.Fatalf("%s asks the store more than a hundred times", name)
}

// The names of what is there and the errors of what is not, once more without
// failures, so that the test above compares with something.
func TestAbsenceIsSaid(t *testing.T) {
	e := newEnv(t)
	e.agent("alpha")
	none := uuid.NewString()
	for name, err := range map[string]error{
		"volume":    second(e.Volume(e.ctx, "db")),
		"by prefix": second(e.Volume(e.ctx, none)),
		"snapshot":  second(e.Snapshot(e.ctx, "", none)),
		"operation": second(e.Operation(e.ctx, none, 0)),
		"profile":   second(e.Profile(e.ctx, "glod")),
		"purge":     second(e.Submit(e.ctx, api.Request{Kind: dataset.OpPurge, Volume: none})),
	} {
		if dataset.KindOf(err) != dataset.ErrNotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A caller who goes away does not leave it open whether his change happened:
// those who wait for it learn of it.
func TestCallerGoesAway(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	rev := e.Feed.Since(a.id, 0).Rev
	ctx, cancel := context.WithCancel(e.ctx)
	e.spy.first(cancel)
	if _, err := e.Submit(ctx, create("db@gold")); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if n := e.Feed.Since(a.id, rev); !n.Any {
		t.Error("the node's agent is not told")
	}
	if len(a.open()) != 1 {
		t.Error("not on record")
	}
	_, err := e.Submit(ctx, create("db2@gold"))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	// The same where the store's answer is lost.
	rev = e.Feed.Since(a.id, 0).Rev
	e.spy.first(func() { e.spy.fail(1, true) })
	_, err = e.Submit(e.ctx, create("db3@gold"))
	refused(t, err, dataset.ErrUnavailable)
	e.spy.fail(0, false)
	if n := e.Feed.Since(a.id, rev); !n.Any || len(a.open()) != 2 {
		t.Errorf("%+v, %d open", n, len(a.open()))
	}
	if diff := cmp.Diff(0, len(e.EventLog.Ring)); diff != "" {
		t.Errorf("events of what may not have happened: %s", diff)
	}
}

// A create wakes no agent, as its answer has all of it. An answer that is lost has nothing: the agent is woken.
func TestLostAnswerWakesTheAgent(t *testing.T) {
	for lost, want := range map[bool]bool{false: false, true: true} {
		e := newEnv(t)
		a := e.agent("alpha")
		a.create("first")
		op := a.plan(create("db"))
		rung, leave := e.Feed.Hear(a.id)
		if lost {
			e.spy.fail(1, true)
		}
		if err := a.commits(op); (err != nil) != lost {
			t.Fatalf("lost %t: %v", lost, err)
		}
		e.spy.fail(0, false)
		woken := false
		select {
		case <-rung:
			woken = true
		default:
		}
		if woken != want {
			t.Errorf("lost %t: it is woken: %t", lost, woken)
		}
		leave()
	}
}
