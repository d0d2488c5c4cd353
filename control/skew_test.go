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
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
)

// Each of two decisions rests on what the other one changes. One of them is committed between the other's reads and
// its transaction. The second one is decided again on the changed state (cluster.md section 5).
func TestWriteSkew(t *testing.T) {
	for _, c := range []struct {
		name  string
		first func(a *controltest.Agent) (interloper func(), second func() error)
		want  *dataset.Kind // of the second; nil: it succeeds
		check func(a *controltest.Agent)
	}{
		{"a create, and a create of the same name", func(a *controltest.Agent) (func(), func() error) {
			op := a.MustPlan(controltest.Create("db@gold"))
			return func() { a.MustCreate("db@silver") }, func() error {
				out, err := a.Commit(a.Ctx, a.ID, a.ReportOf(op))
				if err == nil && !out.Duplicate {
					a.Errorf("both have succeeded")
				}
				return err
			}
		}, nil, func(a *controltest.Agent) { live(a, "db", "silver") }},

		{"an undelete, and a create of the same name", func(a *controltest.Agent) (func(), func() error) {
			a.MustCreate("db@gold")
			d := a.MustDelete("db")
			return func() { a.MustCreate("db@silver") }, func() error {
				return a.TrySubmit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()})
			}
		}, dataset.ErrExists, func(a *controltest.Agent) { live(a, "db", "silver") }},

		{"a create, and an undelete of the same name", func(a *controltest.Agent) (func(), func() error) {
			a.MustCreate("db@gold")
			d := a.MustDelete("db")
			op := a.MustPlan(controltest.Create("db@silver"))
			return func() { a.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()}) }, func() error {
				out, err := a.Commit(a.Ctx, a.ID, a.ReportOf(op))
				if err == nil && (!out.Duplicate || out.Dataset.ID != d.ID) {
					a.Errorf("%+v", out)
				}
				return err
			}
		}, nil, func(a *controltest.Agent) { live(a, "db", "gold") }},

		{"an undelete, and another of the same", func(a *controltest.Agent) (func(), func() error) {
			a.MustCreate("db@gold")
			d := a.MustDelete("db")
			back := func(name string) api.Request {
				return api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String(), Name: name}
			}
			return func() { a.MustSubmit(back("db1")) }, func() error { return a.TrySubmit(back("db2")) }
		}, dataset.ErrNotFound, func(a *controltest.Agent) { live(a, "db1", "gold") }},

		{"an undelete, and the end of its time", func(a *controltest.Agent) (func(), func() error) {
			a.MustCreate("db@gold")
			d := a.MustDelete("db")
			a.Round()
			return func() { a.AdvanceClock(a.TrashTime()); a.Round() }, func() error {
				return a.TrySubmit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()})
			}
		}, dataset.ErrNotFound, nil},

		{"the end of its time, and an undelete", func(a *controltest.Agent) (func(), func() error) {
			a.MustCreate("db@gold")
			d := a.MustDelete("db")
			a.Round()
			a.AdvanceClock(a.TrashTime())
			return func() { a.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()}) }, func() error {
				a.Round()
				return nil
			}
		}, nil, func(a *controltest.Agent) { live(a, "db", "gold") }},

		{"the end of its time, and an undelete with a new delete", func(a *controltest.Agent) (func(), func() error) {
			a.MustCreate("db@gold")
			d := a.MustDelete("db")
			a.Round()
			a.AdvanceClock(a.TrashTime())
			return func() {
					a.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()})
					a.MustDelete("db")
				}, func() error {
					a.Round()
					if got := a.CheckInvariants().Datasets[d.ID]; got.State != dataset.StateTrashed {
						a.Errorf("%s before its new time was over", got.State)
					}
					return nil
				}
		}, nil, nil},

		{"a purge by the name that it had, and an undelete", func(a *controltest.Agent) (func(), func() error) {
			a.MustCreate("db@gold")
			d := a.MustDelete("db")
			return func() { a.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()}) }, func() error {
				return a.TrySubmit(api.Request{Kind: dataset.OpPurge, Volume: "db"})
			}
		}, dataset.ErrNotFound, func(a *controltest.Agent) { live(a, "db", "gold") }},

		{"a purge by a prefix, and an undelete", func(a *controltest.Agent) (func(), func() error) {
			a.MustCreate("db@gold")
			d := a.MustDelete("db")
			return func() { a.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()}) }, func() error {
				return a.TrySubmit(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()[:8]})
			}
		}, dataset.ErrNotFound, func(a *controltest.Agent) { live(a, "db", "gold") }},

		{"a delete, and a protection", func(a *controltest.Agent) (func(), func() error) {
			a.MustCreate("db@gold")
			op := a.MustPlan(api.Request{Kind: dataset.OpDelete, Volume: "db"})
			return func() { a.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: controltest.Yes()}) }, func() error {
				return a.TryCommit(op)
			}
		}, dataset.ErrProtected, func(a *controltest.Agent) { live(a, "db", "gold") }},

		{"a delete, and another with a create of the same name", func(a *controltest.Agent) (func(), func() error) {
			a.MustCreate("db@gold")
			op := a.MustPlan(api.Request{Kind: dataset.OpDelete, Volume: "db"})
			return func() { a.MustDelete("db"); a.MustCreate("db@silver") }, func() error { return a.TryCommit(op) }
		}, dataset.ErrNotFound, func(a *controltest.Agent) { live(a, "db", "silver") }},

		{"a snapshot, and a delete", func(a *controltest.Agent) (func(), func() error) {
			a.MustCreate("db@gold")
			op := a.MustPlan(api.Request{Kind: dataset.OpSnapshot, Volume: "db"})
			return func() { a.MustDelete("db") }, func() error { return a.TryCommit(op) }
		}, dataset.ErrConflict, nil},

		{"a snapshot, and another of the same name", func(a *controltest.Agent) (func(), func() error) {
			a.MustCreate("db@gold")
			op := a.MustPlan(api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "one"})
			return func() { a.MustSnapshot("db", "one") }, func() error { return a.TryCommit(op) }
		}, dataset.ErrExists, nil},

		{"a clone of a snapshot, and its delete", func(a *controltest.Agent) (func(), func() error) {
			a.MustCreate("db@gold")
			s := a.MustSnapshot("db", "")
			op := a.MustPlan(controltest.Create("test@snapshot-" + s.ID.String()))
			return func() { a.MustDo(api.Request{Kind: dataset.OpSnapshotDelete, Snapshot: s.ID.String()}) }, func() error { return a.TryCommit(op) }
		}, dataset.ErrConflict, nil},

		{"a clone of a volume, and its destruction", func(a *controltest.Agent) (func(), func() error) {
			a.MustCreate("db@fleeting")
			op := a.MustPlan(controltest.Create("test", "from=db"))
			return func() { a.MustDelete("db") }, func() error { return a.TryCommit(op) }
		}, dataset.ErrConflict, nil},

		{"a clone of a volume, and its delete to the trash", func(a *controltest.Agent) (func(), func() error) {
			a.MustCreate("db@gold")
			op := a.MustPlan(controltest.Create("test", "from=db"))
			return func() { a.MustDelete("db") }, func() error { return a.TryCommit(op) }
		}, nil, func(a *controltest.Agent) { live(a, "test", "gold") }},

		{"a delete of a snapshot, and a clone of it", func(a *controltest.Agent) (func(), func() error) {
			a.MustCreate("db@gold")
			s := a.MustSnapshot("db", "")
			op := a.MustPlan(api.Request{Kind: dataset.OpSnapshotDelete, Snapshot: s.ID.String()})
			return func() { a.MustCreate("test@snapshot-" + s.ID.String()) }, func() error { return a.TryCommit(op) }
		}, nil, func(a *controltest.Agent) { live(a, "test", "gold") }},

		{"a commit, and the agent's successor", func(a *controltest.Agent) (func(), func() error) {
			op := a.MustPlan(controltest.Create("db@gold"))
			old := a.ReportOf(op)
			return func() { a.Incarnation = uuid.New(); a.MustRegister("alpha") }, func() error {
				_, err := a.Commit(a.Ctx, a.ID, old)
				return err
			}
		}, dataset.ErrStale, nil},

		{"a commit, and a cancel", func(a *controltest.Agent) (func(), func() error) {
			op := *a.MustSubmit(controltest.Create("db@gold")).Operation
			return func() {
				a.OK(a.CancelOperation(a.Ctx, op.ID.String()))
			}, func() error { return a.TryCommit(op) }
		}, dataset.ErrCancelled, nil},

		{"a cancel, and a commit", func(a *controltest.Agent) (func(), func() error) {
			op := *a.MustSubmit(controltest.Create("db@gold")).Operation
			return func() { a.MustCommit(op) }, func() error {
				_, err := a.CancelOperation(a.Ctx, op.ID.String())
				return err
			}
		}, dataset.ErrConflict, func(a *controltest.Agent) { live(a, "db", "gold") }},

		{"a rebuild, and a create of the same name", func(a *controltest.Agent) (func(), func() error) {
			found := api.FoundDataset{Pool: a.LocalPools[0].ID, Dataset: *a.MustPlan(controltest.Create("db@gold")).DatasetRecord}
			return func() { a.MustCreate("db@silver") }, func() error {
				r, err := a.Rebuild(a.Ctx, a.ID, []api.FoundDataset{found}, false)
				if err == nil && r[0].Action != "renamed" {
					a.Errorf("%+v", r)
				}
				return err
			}
		}, nil, func(a *controltest.Agent) { live(a, "db", "silver") }},

		{"a purge's report, and a snapshot found again", func(a *controltest.Agent) (func(), func() error) {
			a.MustCreate("db@fleeting")
			s := a.MustSnapshot("db", "")
			found := api.FoundDataset{Pool: a.LocalPools[0].ID, Dataset: a.MustVolume("db").Dataset, Snapshots: []dataset.Snapshot{s, s}}
			found.Snapshots[1].ID = uuid.New()
			d := a.MustDelete("db")
			return func() {
				a.OK(a.Rebuild(a.Ctx, a.ID, []api.FoundDataset{found}, false))
			}, func() error { a.MustPurge(d); return nil }
		}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, a := controltest.OneNode(t)
			interloper, second := c.first(a)
			e.CheckInvariants()
			ran := false
			e.Spy.Before(func() { ran = true; interloper() })
			if err := second(); dataset.KindOf(err) != c.want {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if !ran {
				t.Error("nothing was committed in between: the test tests nothing")
			}
			if c.check != nil {
				c.check(a)
			}
			e.CheckInvariants()
			if len(e.Failures) != 0 {
				t.Errorf("the background work failed: %v", e.Failures)
			}
		})
	}
}

// live expects a volume with the given profile.
func live(a *controltest.Agent, name, profile string) {
	a.Helper()
	if v := a.MustVolume(name); v.Volume != name || v.Profile.Name != profile || v.State != dataset.StateReady {
		a.Errorf("%s is %+v", name, v.Dataset)
	}
}

// A name moves from one dataset to another while it is read. The reader gets one of the two, never neither and never
// one that was removed.
func TestNameThatMovesWhileItIsRead(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db@fleeting")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			// The name moves in one transaction, as in an import that replaces it.
			old := e.MustVolume("db").Dataset
			fresh := old
			fresh.ID = uuid.New()
			_, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
				if err := t.Put(record.NameKey("db"), record.Claim{ID: fresh.ID}); err != nil {
					return err
				}
				old.State = dataset.StatePurging
				for _, d := range []dataset.Dataset{old, fresh} {
					if err := t.Put(record.DatasetKey(d.ID), d); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 2000 {
		v, err := e.Volume(e.Ctx, "db")
		if err != nil || v.State != dataset.StateReady {
			t.Fatalf("%s, %v", v.State, err)
		}
	}
	close(stop)
	<-done
}

// Damage that looks like a read between two transactions is reported, and does not make a caller retry for ever.
func TestNameThatPointsAstray(t *testing.T) {
	e, a := controltest.OneNode(t)
	d := a.MustCreate("db")
	for _, id := range []uuid.UUID{uuid.New(), a.MustDelete("db").ID, d.ID} {
		e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error { return t.Put(record.NameKey("db"), record.Claim{ID: id}) }))
		_, err := e.Volume(e.Ctx, "db")
		controltest.Refused(t, err, dataset.ErrCorrupt, "names/db", id.String())
		a.MustRefusePlan(controltest.Create("db"), dataset.ErrCorrupt, "names/db")
	}
}

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
	e, a := controltest.OneNode(t)
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
	assert.ErrorIs(t, err, context.Canceled)
	// The same if the store's answer is lost.
	rev = e.Feed.Since(a.ID, 0).Rev
	e.Spy.Before(func() { e.Spy.FailFrom(1, true) })
	e.MustRefuse(controltest.Create("db3@gold"), dataset.ErrUnavailable)
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
		e, a := controltest.OneNode(t)
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
