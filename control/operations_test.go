package control_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

func TestSubmit(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	req := controltest.Create("db@gold", "size=30GiB")
	req.ID = uuid.New()
	out := e.MustSubmit(req)
	op := out.Operation
	if op.ID != req.ID || op.State != dataset.OpPending || op.Node != a.ID || op.Options["size"] != "30GiB" || out.Volume != nil {
		t.Errorf("%+v", out)
	}
	e.CheckInvariants()
	again := e.MustSubmit(req)
	if diff := cmp.Diff(op, again.Operation); diff != "" {
		t.Errorf("asked again:\n%s", diff)
	}
	if open := a.OpenOperations(); len(open) != 1 || open[0].ID != req.ID {
		t.Errorf("to do: %+v", open)
	}
	a.DoWork()
	if out := e.MustSubmit(req); out.Operation.State != dataset.OpDone || out.Volume.Volume != "db" {
		t.Errorf("requested again after it is done: %+v", out)
	}
	if out := e.MustSubmit(controltest.Create("db@gold")); out.Operation != nil || out.Volume.ID != op.DatasetID {
		t.Errorf("what exists: %+v", out)
	}
	_, err := e.Submit(e.Ctx, controltest.Create("db@silver"))
	controltest.Refused(t, err, dataset.ErrExists, "gold", "silver")
	if n := len(e.CheckInvariants().Operations); n != 1 {
		t.Errorf("%d operations on record", n)
	}
}

// An ID that was used cannot be used for a different request, which would get the outcome of the first one.
func TestIDOfAnotherRequest(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db")
	a.MustCreate("other")
	first := api.Request{ID: uuid.New(), Kind: dataset.OpDelete, Volume: "db"}
	id := e.MustSubmit(first).Operation.ID
	a.DoWork()
	for _, req := range []api.Request{
		{Kind: dataset.OpDelete, Volume: "other"}, {Kind: dataset.OpDelete, Volume: "db", Force: true},
		{Kind: dataset.OpSnapshot, Volume: "other"}, controltest.Create("new"),
	} {
		req.ID = id
		_, err := e.Submit(e.Ctx, req)
		controltest.Refused(t, err, dataset.ErrExists, id.String(), "delete", "db")
	}
	if v := e.MustVolume("other"); v.State != dataset.StateReady {
		t.Errorf("%+v", v)
	}
	if out := e.MustSubmit(first); out.Operation.State != dataset.OpDone {
		t.Errorf("the first request again: %+v", out)
	}
}

// The same request from many callers at once is one operation.
func TestSubmitAtOnce(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db")
	for _, req := range []api.Request{
		controltest.Create("new@gold"), {Kind: dataset.OpSnapshot, Volume: "db"}, {Kind: dataset.OpUpdate, Volume: "db", Protect: controltest.Yes()},
	} {
		req.ID = uuid.New()
		outs := make([]api.Outcome, 16)
		var all sync.WaitGroup
		for i := range outs {
			all.Go(func() { outs[i] = e.MustSubmit(req) })
		}
		all.Wait()
		for _, out := range outs[1:] {
			if diff := cmp.Diff(outs[0].Operation, out.Operation); diff != "" {
				t.Errorf("%s:\n%s", req.Kind, diff)
			}
		}
	}
	if n := len(e.CheckInvariants().Operations); n != 3 {
		t.Errorf("%d operations on record", n)
	}
}

// A request is committed between the reads of another one with the same ID. Both get the same answer.
func TestSubmitBetweenReads(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	a.MustCreate("db")
	a.MustCreate("old")
	for name, req := range map[string]api.Request{
		"protect":  {Kind: dataset.OpUpdate, Volume: "db", Protect: controltest.Yes()},
		"undelete": {Kind: dataset.OpUndelete, Volume: a.MustDelete("old").ID.String()},
	} {
		req.ID = uuid.New()
		var first api.Outcome
		e.Spy.OnGet = func(key string) {
			if key != record.OperationKey(req.ID) { // it was read, and did not exist
				e.Spy.OnGet = nil
				first = e.MustSubmit(req)
			}
		}
		second := e.MustSubmit(req)
		if diff := cmp.Diff(first.Operation, second.Operation); diff != "" || first.Operation == nil {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
	e.CheckInvariants()
}

func TestCancel(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	for kind, op := range a.PlanEachKind() {
		if kind == dataset.OpPurge {
			op = *e.MustSubmit(api.Request{Kind: kind, Volume: op.DatasetID.String()}).Operation
		} else if err := e.Record(e.Ctx, a.ID, a.ReportOf(op)); err != nil {
			t.Fatal(err)
		}
		got, err := e.CancelOperation(e.Ctx, op.ID.String()[:13])
		if control.Makes(kind) || kind == dataset.OpSnapshot {
			if err != nil || got.State != dataset.OpCancelled || got.Problem.Code != dataset.ErrCancelled.Code || !got.Ended.Equal(controltest.Start) {
				t.Errorf("%s: %+v, %v", kind, got, err)
			}
			if again, err := e.CancelOperation(e.Ctx, op.ID.String()); err != nil || !cmp.Equal(got, again) {
				t.Errorf("%s again: %+v, %v", kind, again, err)
			}
			continue
		}
		controltest.Refused(t, err, dataset.ErrUnsupported, string(kind), "undone")
	}
	op := *e.MustSubmit(controltest.Create("last")).Operation
	a.MustCommit(op)
	_, err := e.CancelOperation(e.Ctx, op.ID.String())
	controltest.Refused(t, err, dataset.ErrConflict, "already done")
	_, err = e.CancelOperation(e.Ctx, uuid.NewString())
	controltest.Refused(t, err, dataset.ErrNotFound)
	e.CheckInvariants()
}

func TestOperationByPrefix(t *testing.T) {
	e := controltest.New(t)
	e.NewAgent("alpha")
	one, two := "abcd0000-0000-4000-8000-000000000001", "abcd0000-0000-4000-8000-000000000002"
	for i, id := range []string{one, two} {
		req := controltest.Create([]string{"db1", "db2"}[i])
		req.ID = uuid.MustParse(id)
		e.MustSubmit(req)
	}
	for _, ref := range []string{one, strings.ToUpper(one)} {
		if op, err := e.Operation(e.Ctx, ref, 0); err != nil || op.ID.String() != one {
			t.Errorf("%s: %v, %v", ref, op.ID, err)
		}
	}
	_, err := e.Operation(e.Ctx, "abcd", 0)
	controltest.Refused(t, err, dataset.ErrAmbiguous, "abcd")
	for _, ref := range []string{"", "abc", "db1", "beef", "../names", strings.Repeat("a", 1<<16)} {
		_, err := e.Operation(e.Ctx, ref, time.Hour)
		controltest.Refused(t, err, dataset.ErrNotFound, "operation ls")
	}
}

func TestOperationsAreListed(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	want := map[uuid.UUID]bool{}
	for range 23 {
		want[e.MustSubmit(controltest.Create("db"+uuid.NewString())).Operation.ID] = true
	}
	first := a.OpenOperations()[0]
	beat := api.Heartbeat{Incarnation: a.Incarnation, Operations: []dataset.Operation{{ID: first.ID, Progress: dataset.Progress{Step: "making"}}}}
	if err := e.Heartbeat(e.Ctx, a.ID, beat); err != nil {
		t.Fatal(err)
	}
	n := 0
	for p := (api.Page{Limit: 5}); ; {
		list, err := e.Operations(e.Ctx, p)
		if err != nil || len(list.Items) > 5 {
			t.Fatal(len(list.Items), err)
		}
		for _, op := range list.Items {
			if !want[op.ID] || (op.Progress.Step != "") != (op.ID == first.ID) {
				t.Errorf("%+v", op)
			}
			delete(want, op.ID)
			n++
		}
		if list.Next == "" {
			break
		}
		p.After = list.Next
	}
	if n != 23 {
		t.Errorf("%d operations", n)
	}
}

func TestOperationWaits(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	op := *e.MustSubmit(controltest.Create("db")).Operation
	wait := func() <-chan controltest.Result[dataset.Operation] {
		return controltest.Waiting(e, func() (dataset.Operation, error) { return e.Operation(e.Ctx, op.ID.String(), time.Minute) })
	}
	for i, p := range []dataset.Progress{{Step: "copying", Done: 1, Total: 3}, {Step: "copying", Done: 2, Total: 3}} {
		done := wait()
		beat := api.Heartbeat{Incarnation: a.Incarnation, Operations: []dataset.Operation{{ID: op.ID, Progress: p}}}
		if err := e.Heartbeat(e.Ctx, a.ID, beat); err != nil {
			t.Fatal(err)
		}
		if r := <-done; r.Err != nil || r.V.Progress != p {
			t.Errorf("%d: %+v, %v", i, r.V, r.Err)
		}
	}
	done := wait()
	if err := e.Record(e.Ctx, a.ID, a.ReportOf(op)); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.Err != nil || r.V.State != dataset.OpRunning {
		t.Errorf("%+v, %v", r.V, r.Err)
	}
	// An unrelated change wakes no waiter.
	done = wait()
	e.MustSubmit(controltest.Create("other"))
	if err := e.Heartbeat(e.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation, Operations: []dataset.Operation{{ID: op.ID, Progress: dataset.Progress{Step: "copying", Done: 2, Total: 3}}}}); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-done:
		t.Errorf("woken without a change: %+v", r)
	default:
	}
	a.MustCommit(op)
	if r := <-done; r.Err != nil || r.V.State != dataset.OpDone || r.V.Progress != (dataset.Progress{}) {
		t.Errorf("%+v, %v", r.V, r.Err)
	}
	if got, err := e.Operation(e.Ctx, op.ID.String(), time.Hour); err != nil || got.State != dataset.OpDone {
		t.Errorf("an operation that has ended: %+v, %v", got, err)
	}
	if n := len(e.Feed.Waiting); n != 0 {
		t.Errorf("%d bells are left", n)
	}
}

// A wait ends when its time is over, and with its caller, the operation or the service.
func TestOperationWaitEnds(t *testing.T) {
	e := controltest.New(t)
	e.NewAgent("alpha")
	op := *e.MustSubmit(controltest.Create("db")).Operation
	wait := func(ctx context.Context) <-chan controltest.Result[dataset.Operation] {
		return controltest.Waiting(e, func() (dataset.Operation, error) { return e.Operation(ctx, op.ID.String(), time.Minute) })
	}
	done := wait(e.Ctx)
	e.Clock.Advance(time.Minute)
	if r := <-done; r.Err != nil || r.V.State != dataset.OpPending {
		t.Errorf("%+v, %v", r.V, r.Err)
	}
	ctx, cancel := context.WithCancel(e.Ctx)
	done = wait(ctx)
	cancel()
	if r := <-done; !errors.Is(r.Err, context.Canceled) {
		t.Errorf("%+v, %v", r.V, r.Err)
	}
	done = wait(e.Ctx)
	if _, err := e.CancelOperation(e.Ctx, op.ID.String()); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.Err != nil || r.V.State != dataset.OpCancelled {
		t.Errorf("%+v, %v", r.V, r.Err)
	}
	op = *e.MustSubmit(controltest.Create("db2")).Operation
	done = wait(e.Ctx)
	e.Service.Close()
	e.Service.Close()
	if r := <-done; dataset.KindOf(r.Err) != dataset.ErrUnavailable {
		t.Errorf("%+v, %v", r.V, r.Err)
	}
}

// TestTheDecisionRestsOnWhatWasChosen (I1, write skew): a node that is cordoned between the choice and the
// transaction is not used.
func TestTheDecisionRestsOnWhatWasChosen(t *testing.T) {
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	tr := record.NewTx(e.Ctx, e.Spy)
	op, _, err := e.Service.SubmitIn(tr, controltest.Create("db").Parsed())
	if err != nil || op.Node != a.ID {
		t.Fatal(op, err)
	}
	for _, key := range []string{record.NodeKey(a.ID), record.PoolKey(a.LocalPools[0].ID)} {
		if tr.Entry(key).Index == 0 {
			t.Errorf("%s is not checked", key)
		}
	}
}
