package control_test

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func TestSubmit(t *testing.T) {
	e, a := controltest.OneNode(t)
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
	e.MustRefuse(controltest.Create("db@silver"), dataset.ErrExists, "gold", "silver")
	if n := len(e.CheckInvariants().Operations); n != 1 {
		t.Errorf("%d operations on record", n)
	}
}

// An ID that was used cannot be used for a different request, which would get the outcome of the first one.
func TestIDOfAnotherRequest(t *testing.T) {
	e, a := controltest.OneNode(t)
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
		e.MustRefuse(req, dataset.ErrExists, id.String(), "delete", "db")
	}
	if v := e.MustVolume("other"); v.State != dataset.StateReady {
		t.Errorf("%+v", v)
	}
	if out := e.MustSubmit(first); out.Operation.State != dataset.OpDone {
		t.Errorf("the first request again: %+v", out)
	}
}

// A request is committed between the reads of another one with the same ID. Both get the same answer.
func TestSubmitBetweenReads(t *testing.T) {
	e, a := controltest.OneNode(t)
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
	e, a := controltest.OneNode(t)
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
	e, a := controltest.OneNode(t)
	want := map[uuid.UUID]bool{}
	for range 23 {
		want[e.MustSubmit(controltest.Create("db"+uuid.NewString())).Operation.ID] = true
	}
	first := a.OpenOperations()[0]
	beat := api.Heartbeat{Incarnation: a.Incarnation, Operations: []dataset.Operation{{ID: first.ID, Progress: dataset.Progress{Step: "making"}}}}
	e.OK(e.Heartbeat(e.Ctx, a.ID, beat))
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
	e, a := controltest.OneNode(t)
	op := *e.MustSubmit(controltest.Create("db")).Operation
	wait := func() <-chan controltest.Result[dataset.Operation] {
		return controltest.Waiting(e, func() (dataset.Operation, error) { return e.Operation(e.Ctx, op.ID.String(), time.Minute) })
	}
	for i, p := range []dataset.Progress{{Step: "copying", Done: 1, Total: 3}, {Step: "copying", Done: 2, Total: 3}} {
		done := wait()
		beat := api.Heartbeat{Incarnation: a.Incarnation, Operations: []dataset.Operation{{ID: op.ID, Progress: p}}}
		e.OK(e.Heartbeat(e.Ctx, a.ID, beat))
		if r := <-done; r.Err != nil || r.V.Progress != p {
			t.Errorf("%d: %+v, %v", i, r.V, r.Err)
		}
	}
	done := wait()
	e.OK(e.Record(e.Ctx, a.ID, a.ReportOf(op)))
	if r := <-done; r.Err != nil || r.V.State != dataset.OpRunning {
		t.Errorf("%+v, %v", r.V, r.Err)
	}
	// An unrelated change wakes no waiter.
	done = wait()
	e.MustSubmit(controltest.Create("other"))
	e.OK(e.Heartbeat(e.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation, Operations: []dataset.Operation{{ID: op.ID, Progress: dataset.Progress{Step: "copying", Done: 2, Total: 3}}}}))
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
	e.OK(e.CancelOperation(e.Ctx, op.ID.String()))
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
	e, a := controltest.OneNode(t)
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

// A dry run has the outcome or the error of the request, and changes nothing in the store.
func TestDryRun(t *testing.T) {
	w := newPowersWorld(t)
	for _, c := range submissions() {
		if c.world != nil {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			before := contents(t, w)
			dry := c.req
			dry.ID, dry.DryRun = uuid.New(), true
			out, err := w.Submit(w.Ctx, dry)
			if err != nil || out.Operation == nil {
				t.Fatalf("%+v, %v", out, err)
			}
			if out.Operation.Kind != c.req.Kind || out.Operation.ID != dry.ID {
				t.Errorf("the operation is %+v", out.Operation)
			}
			if after := contents(t, w); !maps.Equal(before, after) {
				t.Error("it changed the store")
			}
			if _, err := w.Operation(w.Ctx, dry.ID.String(), 0); dataset.KindOf(err) != dataset.ErrNotFound {
				t.Errorf("its operation: %v", err)
			}
		})
	}
	for name, req := range map[string]api.Request{
		"unknown volume": {Kind: dataset.OpDelete, Volume: "nobody"},
		"protected":      {Kind: dataset.OpDelete, Volume: "kept"},
		"unknown node":   controltest.Move("mine", "nowhere"),
		"no such trash":  {Kind: dataset.OpPurge, Volume: "mine"},
	} {
		dry := req
		dry.DryRun = true
		_, want := w.Submit(w.Ctx, req)
		if _, err := w.Submit(w.Ctx, dry); err == nil || want == nil || err.Error() != want.Error() {
			t.Errorf("%s: the dry run says %v, the request %v", name, err, want)
		}
	}
}

// contents returns the indexes of all keys of the store.
func contents(t *testing.T, w *powersCluster) map[string]uint64 {
	t.Helper()
	entries, err := w.Ledger.Store.List(t.Context(), "", "", 0)
	require.NoError(t, err)
	all := map[string]uint64{}
	for _, e := range entries {
		all[e.Key] = e.Index
	}
	return all
}

// A volume that its home reports as mounted is not deleted, restored or moved, so the dry run is refused, too.
func TestDryRunOfVolumeInUse(t *testing.T) {
	w := newPowersWorld(t)
	before := w.MustVolume("mine")
	report := func(mounts ...dataset.Mount) {
		t.Helper()
		w.OK(w.Heartbeat(w.Ctx, w.alpha.ID, api.Heartbeat{Incarnation: w.alpha.Incarnation, Datasets: []dataset.DatasetStatus{
			{ID: before.ID, Mounted: len(mounts) > 0, Mounts: mounts},
		}}))
	}
	requests := []api.Request{
		{Kind: dataset.OpDelete, Volume: "mine", DryRun: true},
		{Kind: dataset.OpRestore, Volume: "mine", Snapshot: "before", DryRun: true},
		{Kind: dataset.OpMove, Volume: "mine", Node: "gamma", DryRun: true},
		{Kind: dataset.OpMove, Volume: "mine", DryRun: true}, // as a drain asks for it
	}
	report(dataset.Mount{ID: "x", Count: 1})
	for _, req := range requests {
		w.MustRefuse(req, dataset.ErrInUse, "volume mine", "mounted on node alpha")
	}
	report()
	for _, req := range requests {
		if out, err := w.Submit(w.Ctx, req); err != nil || out.Volume == nil {
			t.Errorf("%s: %+v, %v", req.Kind, out, err)
		}
	}
}

func TestProfilesAreShown(t *testing.T) {
	e := controltest.New(t)
	if all, err := e.Profiles(e.Ctx); err != nil || len(all) != 5 {
		t.Errorf("%d, %v", len(all), err)
	}
	if p, err := e.Profile(e.Ctx, "gold"); err != nil || p.Name != "gold" {
		t.Errorf("%+v, %v", p, err)
	}
	_, err := e.Profile(e.Ctx, "glod")
	controltest.Refused(t, err, dataset.ErrNotFound, "available: bronze")
}

// A replica refuses a store whose records have a later format by the number of the format. If a newer replica raises the
// format while this one runs, this one writes nothing afterwards, although its decision was made before.
func TestB16StoreOfALaterFormat(t *testing.T) {
	e, a := controltest.OneNode(t)
	a.MustCreate("db")
	set := func(value string) {
		t.Helper()
		e.OK(e.Spy.Txn(e.Ctx, nil, []store.Write{{Key: record.FormatKey, Value: []byte(value)}}))
	}
	refused := func(what string, err error) {
		t.Helper()
		if dataset.KindOf(err) != dataset.ErrUnavailable || !strings.Contains(err.Error(), "format 7") {
			t.Errorf("%s: got error %v, want %v with the format 7", what, err, dataset.ErrUnavailable)
		}
	}
	set(`{"format":7,"new":true}`)
	refused("submit", controltest.ErrorOf(e.Submit(e.Ctx, controltest.Create("other"))))
	refused("volumes", controltest.ErrorOf(e.Volumes(e.Ctx, api.Page{})))
	entry, err := e.Spy.Get(e.Ctx, record.FormatKey)
	if err != nil || string(entry.Value) != `{"format":7,"new":true}` {
		t.Errorf("the format is %q, %v", entry.Value, err)
	}
	assert.ErrorIs(t, record.CheckFormat(e.Ctx, e.Spy), dataset.ErrUnsupported)
	set(`{"format":1}`) // the store was restored from a backup
	a.MustCreate("more")
	if names := e.MustVolume("db").Volume + e.MustVolume("more").Volume; names != "dbmore" {
		t.Errorf("volumes %s, want db and more", names)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
