package control_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

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
			if _, err := a.Commit(a.Ctx, a.ID, again(a, op)); err != nil {
				a.Fatalf("%v", err)
			}
		},
	}
	late := map[string]func(a *controltest.Agent, op dataset.Operation){
		"record": func(a *controltest.Agent, op dataset.Operation) {
			if err := a.Record(a.Ctx, a.ID, a.ReportOf(op)); err != nil {
				a.Errorf("%v", err)
			}
		},
		"commit": func(a *controltest.Agent, op dataset.Operation) {
			_, err := a.Commit(a.Ctx, a.ID, a.ReportOf(op))
			controltest.Refused(a, err, dataset.ErrConflict)
		},
	}
	for how, end := range ends {
		for what, arrives := range late {
			t.Run(how+", "+what, func(t *testing.T) {
				e := controltest.New(t)
				a := e.NewAgent("alpha")
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
	e := controltest.New(t)
	a := e.NewAgent("alpha")
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
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	op := a.MustPlan(controltest.Create("db@gold"))
	a.MustCommit(op)
	op.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrUnavailable, "control did not answer"))
	if _, err := a.Commit(a.Ctx, a.ID, again(a, op)); err != nil {
		t.Fatal(err)
	}
	_, err := e.Operation(e.Ctx, op.ID.String(), 0)
	controltest.Refused(t, err, dataset.ErrNotFound)
	if v, err := a.Volume(a.Ctx, "db"); err != nil || v.ID != op.DatasetID {
		t.Errorf("%+v, %v", v, err)
	}
	// A report of an operation that an agent made up does no harm either.
	op = a.MustPlan(api.Request{Kind: dataset.OpSnapshot, Volume: "db"})
	op.Problem, op.Snapshot = dataset.ProblemOf(dataset.Errorf(dataset.ErrNoSpace, "the pool is full")), nil
	if _, err := a.Commit(a.Ctx, a.ID, again(a, op)); err != nil {
		t.Fatal(err)
	}
	e.CheckInvariants()
}

// Two removals of a volume: the second fails, and control records that. If its Record arrives late, it must not
// remove the volume again after somebody has restored it from the trash.
func TestRemovalThatArrivesLate(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	d := a.MustCreate("db@gold")
	late := a.MustPlan(api.Request{Kind: dataset.OpDelete, Volume: "db"})
	a.MustDelete("db")
	failed := late
	failed.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrNotFound, "volume db was deleted meanwhile"))
	if _, err := a.Commit(a.Ctx, a.ID, again(a, failed)); err != nil {
		t.Fatal(err)
	}
	a.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()})
	if err := a.Record(a.Ctx, a.ID, a.ReportOf(late)); err != nil {
		t.Error(err)
	}
	if open := a.OpenOperations(); len(open) != 0 {
		t.Errorf("%d operations would be carried out again, want none", len(open))
	}
	e.CheckInvariants()
}

// A node cannot put operations on record that agents do not carry out.
func TestOnlyKnownFailuresGoOnRecord(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
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
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	op := a.MustPlan(controltest.Create("db"))
	report := again(a, op)
	report.Status = &dataset.DatasetStatus{ID: op.DatasetID}
	if _, err := a.Commit(a.Ctx, a.ID, report); err != nil {
		t.Fatal(err)
	}
	later := dataset.DatasetStatus{
		ID: op.DatasetID, Mounted: true, Mounts: []dataset.Mount{{ID: "m", Names: []string{"db"}}}, Problem: "its disk fails",
	}
	h := api.Heartbeat{Incarnation: a.Incarnation, Incremental: true, Datasets: []dataset.DatasetStatus{later}}
	if err := a.Heartbeat(a.Ctx, a.ID, h); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Commit(a.Ctx, a.ID, report); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&later, e.Reports.Dataset(op.DatasetID, a.ID)); diff != "" {
		t.Errorf("the status after the repeated commit (-want +got):\n%s", diff)
	}
}
