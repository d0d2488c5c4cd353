package control_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
)

// Every report has the incarnation, the epoch and the home. Control refuses a report in which one of them is wrong.
func TestStaleReports(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	ops := a.PlanEachKind()
	old := a.Incarnation
	a.Incarnation = uuid.New()
	a.MustRegister("alpha")
	before := e.Dump()
	for kind, op := range ops {
		_, err := e.Commit(e.Ctx, a.ID, api.Report{Incarnation: old, Operation: op})
		controltest.Refused(t, err, dataset.ErrStale, "incarnation "+old.String())
		controltest.Refused(t, e.Record(e.Ctx, a.ID, api.Report{Incarnation: old, Operation: op}), dataset.ErrStale)
		_, err = e.Commit(e.Ctx, b.ID, b.ReportOf(op))
		controltest.Refused(t, err, dataset.ErrForbidden, a.ID.String(), b.ID.String())
		controltest.Refused(t, e.Record(e.Ctx, b.ID, b.ReportOf(op)), dataset.ErrForbidden)
		if control.Makes(kind) {
			continue
		}
		for _, epoch := range []uint64{op.Epoch - 1, op.Epoch + 1} {
			late := op
			late.Epoch = epoch
			_, err = e.Commit(e.Ctx, a.ID, a.ReportOf(late))
			controltest.Refused(t, err, dataset.ErrStale, "epoch")
		}
		// Another node claims the work.
		stolen := op
		stolen.Node = b.ID
		_, err = e.Commit(e.Ctx, b.ID, b.ReportOf(stolen))
		controltest.Refused(t, err, dataset.ErrStale, "on node "+a.ID.String())
	}
	nobody := uuid.New()
	op := ops[dataset.OpDelete]
	op.Node = nobody
	_, err := e.Commit(e.Ctx, nobody, api.Report{Incarnation: a.Incarnation, Operation: op})
	controltest.Refused(t, err, dataset.ErrStale, "not registered")
	controltest.Refused(t, e.Heartbeat(e.Ctx, a.ID, api.Heartbeat{Incarnation: old}), dataset.ErrStale)
	if diff := cmp.Diff(before, e.Dump()); diff != "" {
		t.Errorf("stale reports changed:\n%s", diff)
	}
}

// A report can contain anything. The result is an error, never a panic, and nothing is changed.
func TestSenselessReports(t *testing.T) {
	e, a := controltest.OneNode(t)
	ops := a.PlanEachKind()
	before := e.Dump()
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
		"no record":        func(op *dataset.Operation) bool { op.DatasetRecord = nil; return needsDataset(op.Kind) },
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
			return control.Makes(op.Kind) && changed(op, func(d *dataset.Dataset) { d.Volume = "../../etc" })
		},
		"another's home": func(op *dataset.Operation) bool {
			return control.Makes(op.Kind) && changed(op, func(d *dataset.Dataset) { d.Home = other })
		},
		"a later epoch": func(op *dataset.Operation) bool {
			return control.Makes(op.Kind) && changed(op, func(d *dataset.Dataset) { d.Epoch = 7 })
		},
		"in the trash": func(op *dataset.Operation) bool {
			return control.Makes(op.Kind) && changed(op, func(d *dataset.Dataset) { d.State = dataset.StateTrashed })
		},
		"only control can discard a dataset": func(op *dataset.Operation) bool { op.Discarded = other; return true },
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
			if _, err := e.Commit(e.Ctx, a.ID, a.ReportOf(op)); dataset.KindOf(err) != dataset.ErrInvalid {
				t.Errorf("%s, %s: %v", name, kind, err)
			}
		}
	}
	if diff := cmp.Diff(before, e.Dump()); diff != "" {
		t.Errorf("invalid reports changed:\n%s", diff)
	}
}

func needsDataset(k dataset.OpKind) bool {
	return control.Makes(k) || k == dataset.OpResize || k == dataset.OpRestore
}

func changed(op *dataset.Operation, change func(*dataset.Dataset)) bool {
	if !needsDataset(op.Kind) {
		return false
	}
	d := *op.DatasetRecord
	change(&d)
	op.DatasetRecord = &d
	return true
}

// For each kind of operation on record: the agent sends the report twice, and its successor sends it once more.
func TestReportsOnRecord(t *testing.T) {
	for _, kind := range []dataset.OpKind{
		dataset.OpCreate, dataset.OpClone, dataset.OpImport, dataset.OpSnapshot, dataset.OpSnapshotDelete,
		dataset.OpRestore, dataset.OpResize, dataset.OpDelete, dataset.OpPurge,
	} {
		t.Run(string(kind), func(t *testing.T) {
			e, a := controltest.OneNode(t)
			op := a.PlanEachKind()[kind]
			if kind == dataset.OpPurge {
				op = *e.MustSubmit(api.Request{Kind: kind, Volume: op.DatasetID.String()}).Operation
			}
			for range 2 {
				e.OK(e.Record(e.Ctx, a.ID, a.ReportOf(op)))
			}
			got, err := e.Operation(e.Ctx, op.ID.String(), 0)
			if err != nil || got.State != dataset.OpRunning || got.Incarnation != a.Incarnation {
				t.Fatalf("on record as %+v, %v", got, err)
			}
			// The agent dies, and its successor continues with the operations on record.
			a.Incarnation = uuid.New()
			a.MustRegister("alpha")
			open := a.OpenOperations()
			if len(open) != 1 {
				t.Fatalf("%d operations to continue with", len(open))
			}
			op = open[0]
			first := a.MustCommit(op)
			before := e.Dump()
			e.OK(e.Record(e.Ctx, a.ID, a.ReportOf(op)))
			again := a.MustCommit(op)
			if diff := cmp.Diff(first.Dataset, again.Dataset); diff != "" || first.Duplicate != again.Duplicate || first.Index < again.Index {
				t.Errorf("%+v, and again %+v", first, again)
			}
			if diff := cmp.Diff(before, e.Dump()); diff != "" {
				t.Errorf("the second report changed:\n%s", diff)
			}
			if got, _ := e.Operation(e.Ctx, op.ID.String(), 0); got.State != dataset.OpDone || len(a.OpenOperations()) != 0 {
				t.Errorf("ended as %s, %d open", got.State, len(a.OpenOperations()))
			}
			e.CheckInvariants()
		})
	}
}

// A Record that arrives after its Commit must not cause the work to be done again.
func TestRecordAfterCommit(t *testing.T) {
	e, a := controltest.OneNode(t)
	ops := a.PlanEachKind()
	for _, kind := range []dataset.OpKind{
		dataset.OpCreate, dataset.OpClone, dataset.OpImport, dataset.OpSnapshot, dataset.OpResize,
		dataset.OpRestore, dataset.OpSnapshotDelete, dataset.OpDelete, dataset.OpPurge,
	} {
		a.MustCommit(ops[kind])
		assert.NoErrorf(t, e.Record(e.Ctx, a.ID, a.ReportOf(ops[kind])), "%s", kind)
		if open := a.OpenOperations(); len(open) != 0 {
			t.Errorf("%s would be done again", kind)
		}
		if kind != dataset.OpDelete && kind != dataset.OpPurge {
			a.MustSnapshot("db", "") // something else has written the dataset
		}
	}
	for _, kind := range []dataset.OpKind{dataset.OpCreate, dataset.OpSnapshot, dataset.OpRestore, dataset.OpSnapshotDelete, dataset.OpDelete} {
		if err := e.Record(e.Ctx, a.ID, a.ReportOf(ops[kind])); err != nil || len(a.OpenOperations()) != 0 {
			t.Errorf("%s, later: %v, %d open", kind, err, len(a.OpenOperations()))
		}
	}
	e.CheckInvariants()
}

func TestFailuresOnRecord(t *testing.T) {
	e, a := controltest.OneNode(t)
	op := *e.MustSubmit(controltest.Create("db@gold")).Operation
	op.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrNoSpace, "pool fast is full"))
	for range 2 {
		if out := a.MustCommit(op); out.Dataset != nil {
			t.Errorf("%+v", out)
		}
		e.CheckInvariants()
	}
	got, err := e.Operation(e.Ctx, op.ID.String(), 0)
	if err != nil || got.State != dataset.OpFailed || !got.Ended.Equal(controltest.Start) || got.Problem.Message != "pool fast is full" {
		t.Errorf("%+v, %v", got, err)
	}
	if out := e.MustSubmit(api.Request{ID: op.ID, Kind: dataset.OpCreate, Volume: "db@gold"}); out.Operation.State != dataset.OpFailed || out.Volume != nil {
		t.Errorf("asked again: %+v", out)
	}
	op.Problem = nil
	_, err = a.Commit(e.Ctx, a.ID, a.ReportOf(op)) // what the operation created must be removed
	controltest.Refused(t, err, dataset.ErrConflict, "failed")

	// If the operation was never on record, control does not believe what the agent says about its kind, because it
	// could have been any.
	op = a.MustPlan(controltest.Create("db@gold"))
	before := e.Dump()
	op.Problem = dataset.ProblemOf(dataset.ErrInternal)
	a.MustCommit(op)
	op.Kind = dataset.OpMove
	a.MustCommit(op)
	if diff := cmp.Diff(before, e.Dump()); diff != "" {
		t.Error(diff)
	}
	op = *e.MustSubmit(controltest.Create("long@gold")).Operation
	op.Problem = &dataset.Problem{Code: "internal", Message: strings.Repeat("x", dataset.MaxLine+1)}
	_, err = a.Commit(e.Ctx, a.ID, a.ReportOf(op))
	controltest.Refused(t, err, dataset.ErrInvalid, "why it failed takes 4097 bytes (4096 at most)")
	e.CheckInvariants()
}

// An ID that is on record for other work is not accepted as the same operation.
func TestReportUnderAnothersID(t *testing.T) {
	e, a := controltest.OneNode(t)
	ops := a.PlanEachKind()
	id := e.MustSubmit(controltest.Create("x1")).Operation.ID
	before := e.Dump()
	for _, op := range ops {
		op.ID = id
		_, err := a.Commit(e.Ctx, a.ID, a.ReportOf(op))
		controltest.Refused(t, err, dataset.ErrStale, id.String())
		controltest.Refused(t, e.Record(e.Ctx, a.ID, a.ReportOf(op)), dataset.ErrStale)
	}
	e.MustRefuse(api.Request{ID: id, Kind: dataset.OpDelete, Volume: "db"}, dataset.ErrExists, id.String(), "create", "delete")
	if diff := cmp.Diff(before, e.Dump()); diff != "" {
		t.Error(diff)
	}
}

// A node that reports an operation of another node does not end it, whatever the report says.
func TestReportOfAnotherNodesOperation(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	a.MustCreate("db@silver")
	op := *e.MustSubmit(api.Request{Kind: dataset.OpSnapshot, Volume: "db"}).Operation
	before := e.Dump()
	stolen := op
	stolen.Node, stolen.Problem = b.ID, &dataset.Problem{Message: "it failed"}
	controltest.Refused(t, b.TryCommit(stolen), dataset.ErrStale, "is recorded as another one")
	if diff := cmp.Diff(before, e.Dump()); diff != "" {
		t.Errorf("it is on record (-before +after):\n%s", diff)
	}
	a.MustCommit(op)
}

// again is a report of an operation of which an earlier report may still arrive.
func again(a *controltest.Agent, op dataset.Operation) api.Report {
	r := a.ReportOf(op)
	r.Retry = true
	return r
}

// A Record or a Commit that arrives after its operation has ended changes nothing, if the agent has said that it may
// arrive late. This holds even if nothing is left that shows that the operation has ended.
func TestReportsThatArriveLate(t *testing.T) {
	ends := map[string]func(a *controltest.Agent, op dataset.Operation){
		"lost its name": func(a *controltest.Agent, op dataset.Operation) {
			a.MustCreate("db@silver")
			for range 2 { // the answer may be lost
				if out, err := a.Commit(a.Ctx, a.ID, again(a, op)); err != nil || !out.Duplicate {
					a.Fatalf("%+v, %v", out, err)
				}
			}
			a.MustDelete("db")
		},
		"made and purged": func(a *controltest.Agent, op dataset.Operation) {
			if out, err := a.Commit(a.Ctx, a.ID, again(a, op)); err != nil || out.Duplicate {
				a.Fatalf("%+v, %v", out, err)
			}
			a.MustDelete("db")
			a.MustSubmit(api.Request{Kind: dataset.OpPurge, Volume: op.DatasetID.String()})
			a.DoWork()
		},
		"failed": func(a *controltest.Agent, op dataset.Operation) {
			op.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrNoSpace, "the pool is full"))
			a.OK(a.Commit(a.Ctx, a.ID, again(a, op)))
		},
	}
	late := map[string]func(a *controltest.Agent, op dataset.Operation){
		"record": func(a *controltest.Agent, op dataset.Operation) {
			a.OK(a.Record(a.Ctx, a.ID, a.ReportOf(op)))
		},
		"commit": func(a *controltest.Agent, op dataset.Operation) {
			_, err := a.Commit(a.Ctx, a.ID, a.ReportOf(op))
			controltest.Refused(a, err, dataset.ErrConflict)
		},
	}
	for how, end := range ends {
		for what, arrives := range late {
			t.Run(how+", "+what, func(t *testing.T) {
				e, a := controltest.OneNode(t)
				op := a.MustPlan(controltest.Create("db@gold"))
				end(a, op)
				arrives(a, op)
				if open := a.OpenOperations(); len(open) != 0 {
					t.Errorf("%d operations would be carried out again", len(open))
				}
				if v, err := a.Volume(a.Ctx, "db"); err == nil {
					t.Errorf("a volume exists: dataset %s", v.ID)
				}
				e.CheckInvariants()
			})
		}
	}
}

// A Commit that is sent again after the first one has arrived is answered with the index of the record, not with the
// index of the operation's end. An agent that took the record for newer than it is would conclude that the store was
// restored from a backup.
func TestIndexOfACommitSentAgain(t *testing.T) {
	e, a := controltest.OneNode(t)
	ops := a.PlanEachKind()
	for _, kind := range []dataset.OpKind{
		dataset.OpCreate, dataset.OpClone, dataset.OpImport, dataset.OpSnapshot, dataset.OpResize,
		dataset.OpRestore, dataset.OpSnapshotDelete, dataset.OpDelete,
	} {
		first := a.MustCommit(ops[kind])
		out, err := a.Commit(a.Ctx, a.ID, again(a, ops[kind]))
		if err != nil || out.Dataset == nil || out.Duplicate {
			t.Errorf("%s: %+v, %v", kind, out, err)
			continue
		}
		record, err := e.Spy.Store.Get(e.Ctx, record.DatasetKey(out.Dataset.ID))
		if err != nil || out.Index != record.Index || first.Index != record.Index {
			t.Errorf("%s: index %d and then %d, want that of the record: %d, %v", kind, first.Index, out.Index, record.Index, err)
		}
	}
	e.CheckInvariants()
}

// A report that arrives after the first one has succeeded does not turn that success into a failure.
func TestFailureAfterSuccess(t *testing.T) {
	e, a := controltest.OneNode(t)
	op := a.MustPlan(controltest.Create("db@gold"))
	a.MustCommit(op)
	op.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrUnavailable, "control did not answer"))
	a.OK(a.Commit(a.Ctx, a.ID, again(a, op)))
	_, err := e.Operation(e.Ctx, op.ID.String(), 0)
	controltest.Refused(t, err, dataset.ErrNotFound)
	if v, err := a.Volume(a.Ctx, "db"); err != nil || v.ID != op.DatasetID {
		t.Errorf("%+v, %v", v, err)
	}
	// A report of an operation that an agent made up does no harm either.
	op = a.MustPlan(api.Request{Kind: dataset.OpSnapshot, Volume: "db"})
	op.Problem, op.Snapshot = dataset.ProblemOf(dataset.Errorf(dataset.ErrNoSpace, "the pool is full")), nil
	a.OK(a.Commit(a.Ctx, a.ID, again(a, op)))
	e.CheckInvariants()
}

// Two removals of a volume: the second fails, and control records that. If its Record arrives late, it must not
// remove the volume again after somebody has restored it from the trash.
func TestRemovalThatArrivesLate(t *testing.T) {
	e, a := controltest.OneNode(t)
	d := a.MustCreate("db@gold")
	late := a.MustPlan(api.Request{Kind: dataset.OpDelete, Volume: "db"})
	a.MustDelete("db")
	failed := late
	failed.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrNotFound, "volume db was deleted meanwhile"))
	a.OK(a.Commit(a.Ctx, a.ID, again(a, failed)))
	a.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()})
	a.OK(a.Record(a.Ctx, a.ID, a.ReportOf(late)))
	if open := a.OpenOperations(); len(open) != 0 {
		t.Errorf("%d operations would be carried out again, want none", len(open))
	}
	e.CheckInvariants()
}

// A node cannot put operations on record that agents do not carry out.
func TestOnlyKnownFailuresGoOnRecord(t *testing.T) {
	e, a := controltest.OneNode(t)
	op := a.MustPlan(controltest.Create("db@gold"))
	op.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrNoSpace, "the pool is full"))
	op.Kind = "anything"
	_, err := a.Commit(a.Ctx, a.ID, again(a, op))
	controltest.Refused(t, err, dataset.ErrInvalid, "anything")
	op.Kind, op.Volume = dataset.OpCreate, "../db"
	_, err = a.Commit(a.Ctx, a.ID, again(a, op))
	controltest.Refused(t, err, dataset.ErrInvalid)
	if _, err := e.Operation(e.Ctx, op.ID.String(), 0); dataset.KindOf(err) != dataset.ErrNotFound {
		t.Errorf("it is on record: %v", err)
	}
}

// TestRepeatedCommitKeepsLaterStatus: the status in a Commit is from before the Commit was sent first. If it is sent
// again, the home may have reported a later status meanwhile. That one stays: its mounts decide whether an alias can be
// dropped, and its problem whether copies may be removed.
func TestRepeatedCommitKeepsLaterStatus(t *testing.T) {
	e, a := controltest.OneNode(t)
	op := a.MustPlan(controltest.Create("db"))
	report := again(a, op)
	report.Status = &dataset.DatasetStatus{ID: op.DatasetID}
	a.OK(a.Commit(a.Ctx, a.ID, report))
	later := dataset.DatasetStatus{
		ID: op.DatasetID, Mounted: true, Mounts: []dataset.Mount{{ID: "m", Names: []string{"db"}}}, Problem: "its disk fails",
	}
	h := api.Heartbeat{Incarnation: a.Incarnation, Incremental: true, Datasets: []dataset.DatasetStatus{later}}
	a.OK(a.Heartbeat(a.Ctx, a.ID, h))
	a.OK(a.Commit(a.Ctx, a.ID, report))
	if diff := cmp.Diff(&later, e.Reports.Dataset(op.DatasetID, a.ID)); diff != "" {
		t.Errorf("the status after the repeated commit (-want +got):\n%s", diff)
	}
}

// While a node does not trust the store, control decides nothing about that node: a name that is free in the store
// may belong to a volume.
func TestDistrustedStoreIsNotChanged(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	a.MustCreate("gone")
	a.MustDelete("gone")
	s := a.MustSnapshot("db", "one")
	a.ReportDistrust("it is older")
	for _, req := range []api.Request{
		controltest.Create("late"), controltest.Create("copy", "from=db"), {Kind: dataset.OpDelete, Volume: "db"}, {Kind: dataset.OpUndelete, Volume: "gone"},
		{Kind: dataset.OpPurge, Volume: "gone"}, {Kind: dataset.OpUpdate, Volume: "db", Protect: controltest.Yes()}, {Kind: dataset.OpUpdate, Volume: "db", Profile: "kept"},
		{Kind: dataset.OpSnapshot, Volume: "db"}, {Kind: dataset.OpSnapshotDelete, Snapshot: s.ID.String()},
		{Kind: dataset.OpRestore, Volume: "db", Snapshot: "one"},
	} {
		e.MustRefuse(req, dataset.ErrConflict, "it is older", "drover store recover --from-pools")
		if !control.Alone(req.Kind) {
			a.MustRefusePlan(req, dataset.ErrConflict, "drover store recover --from-pools")
		}
	}
	if out := e.MustSubmit(controltest.Create("db")); out.Volume == nil {
		t.Errorf("the existing volume, as requested: %+v", out)
	}
	a.ReportDistrust("")
	a.MustCreate("late")
	e.CheckInvariants()
}
