package control

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// one operation of each kind that agents report, on volumes that are there.
func (a *agent) operations() map[dataset.OpKind]dataset.Operation {
	a.Helper()
	a.create("db@gold")
	a.create("gone@fleeting")
	s := a.snapshot("db", "one")
	d := a.delete("gone")
	ops := map[dataset.OpKind]dataset.Operation{}
	for _, req := range []api.Request{
		create("new@gold"),
		{Kind: dataset.OpClone, Volume: "copy", Options: map[string]string{"from": "db"}},
		{Kind: dataset.OpImport, Volume: "imported", Path: "/srv/data"},
		{Kind: dataset.OpSnapshot, Volume: "db", Name: "two"},
		{Kind: dataset.OpSnapshotDelete, Volume: "db", Snapshot: s.ID.String()},
		{Kind: dataset.OpRestore, Volume: "db", Snapshot: s.ID.String()},
		{Kind: dataset.OpResize, Volume: "db", Size: "30GiB"},
		{Kind: dataset.OpDelete, Volume: "db"},
		{Kind: dataset.OpPurge, Volume: d.ID.String()},
	} {
		ops[req.Kind] = a.plan(req)
	}
	return ops
}

// dump is everything in the store, to see that nothing was changed.
func (e *env) dump() map[string]string {
	e.Helper()
	entries, err := e.spy.Store.List(e.ctx, "", "", 0)
	if err != nil {
		e.Fatalf("%v", err)
	}
	all := map[string]string{}
	for _, en := range entries {
		all[en.Key] = string(en.Value)
	}
	return all
}

// Every report carries incarnation, epoch and home; control refuses any other.
func TestStaleReports(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	ops := a.operations()
	old := a.incarnation
	a.incarnation = uuid.New()
	a.register("alpha")
	before := e.dump()
	for kind, op := range ops {
		_, err := e.Commit(e.ctx, a.id, api.Report{Incarnation: old, Operation: op})
		refused(t, err, dataset.ErrStale, "incarnation "+old.String())
		refused(t, e.Record(e.ctx, a.id, api.Report{Incarnation: old, Operation: op}), dataset.ErrStale)
		_, err = e.Commit(e.ctx, b.id, b.report(op))
		refused(t, err, dataset.ErrForbidden, a.id.String(), b.id.String())
		refused(t, e.Record(e.ctx, b.id, b.report(op)), dataset.ErrForbidden)
		if makes(kind) {
			continue
		}
		for _, epoch := range []uint64{op.Epoch - 1, op.Epoch + 1} {
			late := op
			late.Epoch = epoch
			_, err = e.Commit(e.ctx, a.id, a.report(late))
			refused(t, err, dataset.ErrStale, "epoch")
		}
		// Another node that claims the work for itself.
		stolen := op
		stolen.Node = b.id
		_, err = e.Commit(e.ctx, b.id, b.report(stolen))
		refused(t, err, dataset.ErrStale, "on node "+a.id.String())
	}
	nobody := uuid.New()
	op := ops[dataset.OpDelete]
	op.Node = nobody
	_, err := e.Commit(e.ctx, nobody, api.Report{Incarnation: a.incarnation, Operation: op})
	refused(t, err, dataset.ErrStale, "not registered")
	refused(t, e.Heartbeat(e.ctx, a.id, api.Heartbeat{Incarnation: old}), dataset.ErrStale)
	if diff := cmp.Diff(before, e.dump()); diff != "" {
		t.Errorf("stale reports changed:\n%s", diff)
	}
}

// A report can say anything: an error, never a panic, and nothing is changed.
func TestSenselessReports(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	ops := a.operations()
	before := e.dump()
	other := uuid.New()
	for name, spoil := range map[string]func(*dataset.Operation) bool{
		"no ID":         func(op *dataset.Operation) bool { op.ID = uuid.Nil; return true },
		"no dataset ID": func(op *dataset.Operation) bool { op.DatasetID = uuid.Nil; return true },
		"no kind":       func(op *dataset.Operation) bool { op.Kind = ""; return true },
		"undelete":      func(op *dataset.Operation) bool { op.Kind = dataset.OpUndelete; return true },
		"update":        func(op *dataset.Operation) bool { op.Kind = dataset.OpUpdate; return true },
		"update, failed": func(op *dataset.Operation) bool {
			op.Kind, op.Problem = dataset.OpUpdate, dataset.ProblemOf(dataset.ErrInternal)
			return true
		},
		"no record":        func(op *dataset.Operation) bool { op.Dataset = nil; return needsDataset(op.Kind) },
		"another's record": func(op *dataset.Operation) bool { return changed(op, func(d *dataset.Dataset) { d.ID = other }) },
		"no snapshot": func(op *dataset.Operation) bool {
			op.Snapshot = nil
			return op.Kind == dataset.OpSnapshot || op.Kind == dataset.OpSnapshotDelete || op.Kind == dataset.OpRestore
		},
		"another's snapshot": func(op *dataset.Operation) bool {
			if op.Snapshot == nil {
				return false
			}
			s := *op.Snapshot
			s.Dataset, op.Snapshot = other, &s
			return true
		},
		"no source": func(op *dataset.Operation) bool { op.Source = nil; return op.Kind == dataset.OpRestore },
		"another's source": func(op *dataset.Operation) bool {
			op.Source = &dataset.Source{Dataset: other}
			return op.Kind == dataset.OpRestore
		},
		"path for a name": func(op *dataset.Operation) bool {
			return makes(op.Kind) && changed(op, func(d *dataset.Dataset) { d.Volume = "../../etc" })
		},
		"another's home": func(op *dataset.Operation) bool {
			return makes(op.Kind) && changed(op, func(d *dataset.Dataset) { d.Home = other })
		},
		"a later epoch": func(op *dataset.Operation) bool {
			return makes(op.Kind) && changed(op, func(d *dataset.Dataset) { d.Epoch = 7 })
		},
		"in the trash": func(op *dataset.Operation) bool {
			return makes(op.Kind) && changed(op, func(d *dataset.Dataset) { d.State = dataset.StateTrashed })
		},
		"discarded for another": func(op *dataset.Operation) bool { op.Discarded = other; return true },
		"no size": func(op *dataset.Operation) bool {
			return op.Kind == dataset.OpResize && changed(op, func(d *dataset.Dataset) { d.Size = -1 })
		},
		"a path for a snapshot's name": func(op *dataset.Operation) bool {
			if op.Kind != dataset.OpSnapshot {
				return false
			}
			s := *op.Snapshot
			s.Name, op.Snapshot = "../x", &s
			return true
		},
	} {
		for kind, op := range ops {
			if !spoil(&op) {
				continue
			}
			if _, err := e.Commit(e.ctx, a.id, a.report(op)); dataset.KindOf(err) != dataset.ErrInvalid {
				t.Errorf("%s, %s: %v", name, kind, err)
			}
		}
	}
	if diff := cmp.Diff(before, e.dump()); diff != "" {
		t.Errorf("senseless reports changed:\n%s", diff)
	}
}

func needsDataset(k dataset.OpKind) bool {
	return makes(k) || k == dataset.OpResize || k == dataset.OpRestore
}

func changed(op *dataset.Operation, change func(*dataset.Dataset)) bool {
	if !needsDataset(op.Kind) {
		return false
	}
	d := *op.Dataset
	change(&d)
	op.Dataset = &d
	return true
}

// Each kind on record: the report twice, and once more by a successor.
func TestReportsOnRecord(t *testing.T) {
	for _, kind := range []dataset.OpKind{
		dataset.OpCreate, dataset.OpClone, dataset.OpImport, dataset.OpSnapshot, dataset.OpSnapshotDelete,
		dataset.OpRestore, dataset.OpResize, dataset.OpDelete, dataset.OpPurge,
	} {
		t.Run(string(kind), func(t *testing.T) {
			e := newEnv(t)
			a := e.agent("alpha")
			op := a.operations()[kind]
			if kind == dataset.OpPurge {
				op = *e.submit(api.Request{Kind: kind, Volume: op.DatasetID.String()}).Operation
			}
			for range 2 {
				if err := e.Record(e.ctx, a.id, a.report(op)); err != nil {
					t.Fatal(err)
				}
			}
			got, err := e.Operation(e.ctx, op.ID.String(), 0)
			if err != nil || got.State != dataset.OpRunning || got.Incarnation != a.incarnation {
				t.Fatalf("on record as %+v, %v", got, err)
			}
			// The agent dies, and its successor goes on with what it finds.
			a.incarnation = uuid.New()
			a.register("alpha")
			open := a.open()
			if len(open) != 1 {
				t.Fatalf("%d operations to go on with", len(open))
			}
			op = open[0]
			first := a.commit(op)
			before := e.dump()
			if err := e.Record(e.ctx, a.id, a.report(op)); err != nil {
				t.Error(err)
			}
			again := a.commit(op)
			if diff := cmp.Diff(first.Dataset, again.Dataset); diff != "" || first.Lost != again.Lost || first.Index < again.Index {
				t.Errorf("%+v, and again %+v", first, again)
			}
			if diff := cmp.Diff(before, e.dump()); diff != "" {
				t.Errorf("the second report changed:\n%s", diff)
			}
			if got, _ := e.Operation(e.ctx, op.ID.String(), 0); got.State != dataset.OpDone || len(a.open()) != 0 {
				t.Errorf("ended as %s, %d open", got.State, len(a.open()))
			}
			e.check()
		})
	}
}

// A Record that its Commit has overtaken must not have the work done again.
func TestRecordAfterCommit(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	ops := a.operations()
	for _, kind := range []dataset.OpKind{
		dataset.OpCreate, dataset.OpClone, dataset.OpImport, dataset.OpSnapshot, dataset.OpResize,
		dataset.OpRestore, dataset.OpSnapshotDelete, dataset.OpDelete, dataset.OpPurge,
	} {
		a.commit(ops[kind])
		if err := e.Record(e.ctx, a.id, a.report(ops[kind])); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if open := a.open(); len(open) != 0 {
			t.Errorf("%s would be done again", kind)
		}
		if kind != dataset.OpDelete && kind != dataset.OpPurge {
			a.snapshot("db", "") // something else wrote the dataset
		}
	}
	for _, kind := range []dataset.OpKind{dataset.OpCreate, dataset.OpSnapshot, dataset.OpRestore, dataset.OpSnapshotDelete, dataset.OpDelete} {
		if err := e.Record(e.ctx, a.id, a.report(ops[kind])); err != nil || len(a.open()) != 0 {
			t.Errorf("%s, later: %v, %d open", kind, err, len(a.open()))
		}
	}
	e.check()
}

func TestFailuresOnRecord(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	op := *e.submit(create("db@gold")).Operation
	op.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrNoSpace, "pool fast is full"))
	for range 2 {
		if out := a.commit(op); out.Dataset != nil {
			t.Errorf("%+v", out)
		}
		e.check()
	}
	got, err := e.Operation(e.ctx, op.ID.String(), 0)
	if err != nil || got.State != dataset.OpFailed || !got.Ended.Equal(someday) || got.Problem.Message != "pool fast is full" {
		t.Errorf("%+v, %v", got, err)
	}
	if out := e.submit(api.Request{ID: op.ID, Kind: dataset.OpCreate, Volume: "db@gold"}); out.Operation.State != dataset.OpFailed || out.Volume != nil {
		t.Errorf("asked again: %+v", out)
	}
	op.Problem = nil
	_, err = a.Commit(e.ctx, a.id, a.report(op)) // what it made is to go
	refused(t, err, dataset.ErrConflict, "failed")

	// One that was never on record is not for what its agent says: it could be of anything.
	op = a.plan(create("db@gold"))
	before := e.dump()
	op.Problem = dataset.ProblemOf(dataset.ErrInternal)
	a.commit(op)
	op.Kind = dataset.OpMove
	a.commit(op)
	if diff := cmp.Diff(before, e.dump()); diff != "" {
		t.Error(diff)
	}
	op = *e.submit(create("long@gold")).Operation
	op.Problem = &dataset.Problem{Code: "internal", Message: strings.Repeat("x", dataset.MaxLine+1)}
	_, err = a.Commit(e.ctx, a.id, a.report(op))
	refused(t, err, dataset.ErrInvalid, "why it failed takes 4097 bytes (4096 at most)")
	e.check()
}

func TestCancelledReports(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	op := *e.submit(create("db@gold")).Operation
	if _, err := e.CancelOperation(e.ctx, op.ID.String()); err != nil {
		t.Fatal(err)
	}
	_, err := a.Commit(e.ctx, a.id, a.report(op))
	refused(t, err, dataset.ErrCancelled, op.ID.String())
	op.Problem = dataset.ProblemOf(context.Canceled) // what the agent says when it was stopped
	a.commit(op)
	if err := e.Record(e.ctx, a.id, a.report(op)); err != nil {
		t.Error(err)
	}
	if got, _ := e.Operation(e.ctx, op.ID.String(), 0); got.State != dataset.OpCancelled || len(a.open()) != 0 {
		t.Errorf("%+v", got)
	}
	if st := e.check(); len(st.datasets) != 0 {
		t.Errorf("%+v", st.datasets)
	}
}

// An ID that is on record for other work is not taken for it.
func TestReportUnderAnothersID(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	ops := a.operations()
	id := e.submit(create("x1")).Operation.ID
	before := e.dump()
	for _, op := range ops {
		op.ID = id
		_, err := a.Commit(e.ctx, a.id, a.report(op))
		refused(t, err, dataset.ErrStale, id.String())
		refused(t, e.Record(e.ctx, a.id, a.report(op)), dataset.ErrStale)
	}
	_, err := e.Submit(e.ctx, api.Request{ID: id, Kind: dataset.OpDelete, Volume: "db"})
	refused(t, err, dataset.ErrExists, id.String(), "create", "delete")
	if diff := cmp.Diff(before, e.dump()); diff != "" {
		t.Error(diff)
	}
}

// The agent's copy of a record is only replaced by a newer one: the index of a
// second answer is not newer than what it says.
func TestIndexOfAnswers(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	op := a.plan(create("db"))
	first := a.commit(op)
	a.snapshot("db", "")
	entry, err := e.spy.Get(e.ctx, record.DatasetKey(op.DatasetID))
	if err != nil || entry.Index <= first.Index {
		t.Fatal(entry.Index, err)
	}
	if again := a.commit(op); again.Index != entry.Index {
		t.Errorf("index %d of a record with index %d", again.Index, entry.Index)
	}
}

// A node that reports the operation of another node ends nothing, whatever it says of it.
func TestReportOfAnotherNodesOperation(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	a.create("db@silver")
	op := *e.submit(api.Request{Kind: dataset.OpSnapshot, Volume: "db"}).Operation
	before := e.dump()
	stolen := op
	stolen.Node, stolen.Problem = b.id, &dataset.Problem{Message: "it failed"}
	refused(t, b.commits(stolen), dataset.ErrStale, "is another one")
	if diff := cmp.Diff(before, e.dump()); diff != "" {
		t.Errorf("it is on record (-before +after):\n%s", diff)
	}
	a.commit(op)
}
