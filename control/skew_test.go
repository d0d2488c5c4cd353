package control_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
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
				if _, err := a.CancelOperation(a.Ctx, op.ID.String()); err != nil {
					a.Errorf("%v", err)
				}
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
				if _, err := a.Rebuild(a.Ctx, a.ID, []api.FoundDataset{found}, false); err != nil {
					a.Errorf("%v", err)
				}
			}, func() error { a.MustPurge(d); return nil }
		}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := controltest.New(t)
			a := e.NewAgent("alpha")
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
	e := controltest.New(t)
	a := e.NewAgent("alpha")
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
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	d := a.MustCreate("db")
	for _, id := range []uuid.UUID{uuid.New(), a.MustDelete("db").ID, d.ID} {
		if _, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error { return t.Put(record.NameKey("db"), record.Claim{ID: id}) }); err != nil {
			t.Fatal(err)
		}
		_, err := e.Volume(e.Ctx, "db")
		controltest.Refused(t, err, dataset.ErrCorrupt, "names/db", id.String())
		a.MustRefusePlan(controltest.Create("db"), dataset.ErrCorrupt, "names/db")
	}
}
