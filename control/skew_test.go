package control

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// Two decisions that rest on each other's ground: the one goes through between
// the other's reads and its transaction. The one that comes second is decided
// anew on what is there then (cluster.md section 5).
func TestWriteSkew(t *testing.T) {
	for _, c := range []struct {
		name  string
		first func(a *agent) (interloper func(), second func() error)
		want  *dataset.Kind // of the second; nil: it succeeds
		check func(a *agent)
	}{
		{"a create, and a create of the same name", func(a *agent) (func(), func() error) {
			op := a.plan(create("db@gold"))
			return func() { a.create("db@silver") }, func() error {
				out, err := a.Commit(a.ctx, a.id, a.report(op))
				if err == nil && !out.Lost {
					a.Errorf("both have won")
				}
				return err
			}
		}, nil, func(a *agent) { a.live("db", "silver") }},

		{"an undelete, and a create of the same name", func(a *agent) (func(), func() error) {
			a.create("db@gold")
			d := a.delete("db")
			return func() { a.create("db@silver") }, func() error {
				return a.submits(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()})
			}
		}, dataset.ErrExists, func(a *agent) { a.live("db", "silver") }},

		{"a create, and an undelete of the same name", func(a *agent) (func(), func() error) {
			a.create("db@gold")
			d := a.delete("db")
			op := a.plan(create("db@silver"))
			return func() { a.submit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()}) }, func() error {
				out, err := a.Commit(a.ctx, a.id, a.report(op))
				if err == nil && (!out.Lost || out.Dataset.ID != d.ID) {
					a.Errorf("%+v", out)
				}
				return err
			}
		}, nil, func(a *agent) { a.live("db", "gold") }},

		{"an undelete, and another of the same", func(a *agent) (func(), func() error) {
			a.create("db@gold")
			d := a.delete("db")
			back := func(name string) api.Request {
				return api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String(), Name: name}
			}
			return func() { a.submit(back("db1")) }, func() error { return a.submits(back("db2")) }
		}, dataset.ErrNotFound, func(a *agent) { a.live("db1", "gold") }},

		{"an undelete, and the end of its time", func(a *agent) (func(), func() error) {
			a.create("db@gold")
			d := a.delete("db")
			a.rounds()
			return func() { a.pass(a.trashTime()); a.rounds() }, func() error {
				return a.submits(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()})
			}
		}, dataset.ErrNotFound, nil},

		{"the end of its time, and an undelete", func(a *agent) (func(), func() error) {
			a.create("db@gold")
			d := a.delete("db")
			a.rounds()
			a.pass(a.trashTime())
			return func() { a.submit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()}) }, func() error {
				a.rounds()
				return nil
			}
		}, nil, func(a *agent) { a.live("db", "gold") }},

		{"the end of its time, and an undelete with a new delete", func(a *agent) (func(), func() error) {
			a.create("db@gold")
			d := a.delete("db")
			a.rounds()
			a.pass(a.trashTime())
			return func() {
					a.submit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()})
					a.delete("db")
				}, func() error {
					a.rounds()
					if got := a.check().datasets[d.ID]; got.State != dataset.StateTrashed {
						a.Errorf("%s before its new time was over", got.State)
					}
					return nil
				}
		}, nil, nil},

		{"a purge by the name that it had, and an undelete", func(a *agent) (func(), func() error) {
			a.create("db@gold")
			d := a.delete("db")
			return func() { a.submit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()}) }, func() error {
				return a.submits(api.Request{Kind: dataset.OpPurge, Volume: "db"})
			}
		}, dataset.ErrNotFound, func(a *agent) { a.live("db", "gold") }},

		{"a purge by a prefix, and an undelete", func(a *agent) (func(), func() error) {
			a.create("db@gold")
			d := a.delete("db")
			return func() { a.submit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()}) }, func() error {
				return a.submits(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()[:8]})
			}
		}, dataset.ErrNotFound, func(a *agent) { a.live("db", "gold") }},

		{"a delete, and a protection", func(a *agent) (func(), func() error) {
			a.create("db@gold")
			op := a.plan(api.Request{Kind: dataset.OpDelete, Volume: "db"})
			return func() { a.submit(api.Request{Kind: dataset.OpUpdate, Volume: "db", Protect: yes()}) }, func() error {
				return a.commits(op)
			}
		}, dataset.ErrProtected, func(a *agent) { a.live("db", "gold") }},

		{"a delete, and another with a create of the same name", func(a *agent) (func(), func() error) {
			a.create("db@gold")
			op := a.plan(api.Request{Kind: dataset.OpDelete, Volume: "db"})
			return func() { a.delete("db"); a.create("db@silver") }, func() error { return a.commits(op) }
		}, dataset.ErrNotFound, func(a *agent) { a.live("db", "silver") }},

		{"a snapshot, and a delete", func(a *agent) (func(), func() error) {
			a.create("db@gold")
			op := a.plan(api.Request{Kind: dataset.OpSnapshot, Volume: "db"})
			return func() { a.delete("db") }, func() error { return a.commits(op) }
		}, dataset.ErrConflict, nil},

		{"a snapshot, and another of the same name", func(a *agent) (func(), func() error) {
			a.create("db@gold")
			op := a.plan(api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "one"})
			return func() { a.snapshot("db", "one") }, func() error { return a.commits(op) }
		}, dataset.ErrExists, nil},

		{"a clone of a snapshot, and its delete", func(a *agent) (func(), func() error) {
			a.create("db@gold")
			s := a.snapshot("db", "")
			op := a.plan(create("test@snapshot-" + s.ID.String()))
			return func() { a.do(api.Request{Kind: dataset.OpSnapshotDelete, Snapshot: s.ID.String()}) }, func() error { return a.commits(op) }
		}, dataset.ErrConflict, nil},

		{"a clone of a volume, and its destruction", func(a *agent) (func(), func() error) {
			a.create("db@fleeting")
			op := a.plan(create("test", "from=db"))
			return func() { a.delete("db") }, func() error { return a.commits(op) }
		}, dataset.ErrConflict, nil},

		{"a clone of a volume, and its delete to the trash", func(a *agent) (func(), func() error) {
			a.create("db@gold")
			op := a.plan(create("test", "from=db"))
			return func() { a.delete("db") }, func() error { return a.commits(op) }
		}, nil, func(a *agent) { a.live("test", "gold") }},

		{"a delete of a snapshot, and a clone of it", func(a *agent) (func(), func() error) {
			a.create("db@gold")
			s := a.snapshot("db", "")
			op := a.plan(api.Request{Kind: dataset.OpSnapshotDelete, Snapshot: s.ID.String()})
			return func() { a.create("test@snapshot-" + s.ID.String()) }, func() error { return a.commits(op) }
		}, nil, func(a *agent) { a.live("test", "gold") }},

		{"a commit, and the agent's successor", func(a *agent) (func(), func() error) {
			op := a.plan(create("db@gold"))
			old := a.report(op)
			return func() { a.incarnation = uuid.New(); a.register("alpha") }, func() error {
				_, err := a.Commit(a.ctx, a.id, old)
				return err
			}
		}, dataset.ErrStale, nil},

		{"a commit, and a cancel", func(a *agent) (func(), func() error) {
			op := *a.submit(create("db@gold")).Operation
			return func() {
				if _, err := a.CancelOperation(a.ctx, op.ID.String()); err != nil {
					a.Errorf("%v", err)
				}
			}, func() error { return a.commits(op) }
		}, dataset.ErrCancelled, nil},

		{"a cancel, and a commit", func(a *agent) (func(), func() error) {
			op := *a.submit(create("db@gold")).Operation
			return func() { a.commit(op) }, func() error {
				_, err := a.CancelOperation(a.ctx, op.ID.String())
				return err
			}
		}, dataset.ErrConflict, func(a *agent) { a.live("db", "gold") }},

		{"a rebuild, and a create of the same name", func(a *agent) (func(), func() error) {
			found := api.Found{Pool: a.pools[0].ID, Dataset: *a.plan(create("db@gold")).Dataset}
			return func() { a.create("db@silver") }, func() error {
				r, err := a.Rebuild(a.ctx, a.id, []api.Found{found})
				if err == nil && r[0].Action != "renamed" {
					a.Errorf("%+v", r)
				}
				return err
			}
		}, nil, func(a *agent) { a.live("db", "silver") }},

		{"a purge's report, and a snapshot found again", func(a *agent) (func(), func() error) {
			a.create("db@fleeting")
			s := a.snapshot("db", "")
			found := api.Found{Pool: a.pools[0].ID, Dataset: a.volume("db").Dataset, Snapshots: []dataset.Snapshot{s, s}}
			found.Snapshots[1].ID = uuid.New()
			d := a.delete("db")
			return func() {
				if _, err := a.Rebuild(a.ctx, a.id, []api.Found{found}); err != nil {
					a.Errorf("%v", err)
				}
			}, func() error { a.purge(d); return nil }
		}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEnv(t)
			a := e.agent("alpha")
			interloper, second := c.first(a)
			e.check()
			ran := false
			e.spy.first(func() { ran = true; interloper() })
			if err := second(); dataset.KindOf(err) != c.want {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if !ran {
				t.Error("nothing came between: the test tests nothing")
			}
			if c.check != nil {
				c.check(a)
			}
			e.check()
			if len(e.failures) != 0 {
				t.Errorf("the background work failed: %v", e.failures)
			}
		})
	}
}

func (a *agent) commits(op dataset.Operation) error {
	_, err := a.Commit(a.ctx, a.id, a.report(op))
	return err
}

func (a *agent) submits(req api.Request) error {
	_, err := a.Submit(a.ctx, req)
	return err
}

// live expects a volume with a profile.
func (a *agent) live(name, profile string) {
	a.Helper()
	if v := a.volume(name); v.Volume != name || v.Profile.Name != profile || v.State != dataset.StateReady {
		a.Errorf("%s is %+v", name, v.Dataset)
	}
}

// A name that moves from one dataset to another while it is read is one or the
// other, never neither and never one that is gone.
func TestNameThatMovesWhileItIsRead(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db@fleeting")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			// A move of the name in one transaction, as an import over it would be.
			old := e.volume("db").Dataset
			fresh := old
			fresh.ID = uuid.New()
			_, err := e.Ledger.Update(e.ctx, func(t *record.Tx) error {
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
		v, err := e.Volume(e.ctx, "db")
		if err != nil || v.State != dataset.StateReady {
			t.Fatalf("%s, %v", v.State, err)
		}
	}
	close(stop)
	<-done
}

// Damage that looks like a read between two transactions is named, and does not
// keep anyone trying for ever.
func TestNameThatPointsAstray(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	d := a.create("db")
	for _, id := range []uuid.UUID{uuid.New(), a.delete("db").ID, d.ID} {
		if _, err := e.Ledger.Update(e.ctx, func(t *record.Tx) error { return t.Put(record.NameKey("db"), record.Claim{ID: id}) }); err != nil {
			t.Fatal(err)
		}
		_, err := e.Volume(e.ctx, "db")
		refused(t, err, dataset.ErrCorrupt, "names/db", id.String())
		a.planned(create("db"), dataset.ErrCorrupt, "names/db")
	}
}
