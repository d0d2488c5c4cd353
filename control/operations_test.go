package control

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

func TestSubmit(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	req := create("db@gold", "size=30GiB")
	req.ID = uuid.New()
	out := e.submit(req)
	op := out.Operation
	if op.ID != req.ID || op.State != dataset.OpPending || op.Node != a.id || op.Options["size"] != "30GiB" || out.Volume != nil {
		t.Errorf("%+v", out)
	}
	e.check()
	again := e.submit(req)
	if diff := cmp.Diff(op, again.Operation); diff != "" {
		t.Errorf("asked again:\n%s", diff)
	}
	if open := a.open(); len(open) != 1 || open[0].ID != req.ID {
		t.Errorf("to do: %+v", open)
	}
	a.work()
	if out := e.submit(req); out.Operation.State != dataset.OpDone || out.Volume.Volume != "db" {
		t.Errorf("asked again when it is done: %+v", out)
	}
	if out := e.submit(create("db@gold")); out.Operation != nil || out.Volume.ID != op.DatasetID {
		t.Errorf("what exists: %+v", out)
	}
	_, err := e.Submit(e.ctx, create("db@silver"))
	refused(t, err, dataset.ErrExists, "gold", "silver")
	if n := len(e.check().operations); n != 1 {
		t.Errorf("%d operations on record", n)
	}
}

// An ID that was used is not another request's: it would be answered with what
// became of the first.
func TestIDOfAnotherRequest(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db")
	a.create("other")
	first := api.Request{ID: uuid.New(), Kind: dataset.OpDelete, Volume: "db"}
	id := e.submit(first).Operation.ID
	a.work()
	for _, req := range []api.Request{
		{Kind: dataset.OpDelete, Volume: "other"}, {Kind: dataset.OpDelete, Volume: "db", Force: true},
		{Kind: dataset.OpSnapshot, Volume: "other"}, create("new"),
	} {
		req.ID = id
		_, err := e.Submit(e.ctx, req)
		refused(t, err, dataset.ErrExists, id.String(), "delete", "db")
	}
	if v := e.volume("other"); v.State != dataset.StateReady {
		t.Errorf("%+v", v)
	}
	if out := e.submit(first); out.Operation.State != dataset.OpDone {
		t.Errorf("the first asked again: %+v", out)
	}
}

// The same request from many at once is one operation.
func TestSubmitAtOnce(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db")
	for _, req := range []api.Request{
		create("new@gold"), {Kind: dataset.OpSnapshot, Volume: "db"}, {Kind: dataset.OpUpdate, Volume: "db", Protect: yes()},
	} {
		req.ID = uuid.New()
		outs := make([]api.Outcome, 16)
		var all sync.WaitGroup
		for i := range outs {
			all.Go(func() { outs[i] = e.submit(req) })
		}
		all.Wait()
		for _, out := range outs[1:] {
			if diff := cmp.Diff(outs[0].Operation, out.Operation); diff != "" {
				t.Errorf("%s:\n%s", req.Kind, diff)
			}
		}
	}
	if n := len(e.check().operations); n != 3 {
		t.Errorf("%d operations on record", n)
	}
}

// One that goes through between the reads of another with the same ID: both have
// the same answer.
func TestSubmitBetweenReads(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	a.create("db")
	a.create("old")
	for name, req := range map[string]api.Request{
		"protect":  {Kind: dataset.OpUpdate, Volume: "db", Protect: yes()},
		"undelete": {Kind: dataset.OpUndelete, Volume: a.delete("old").ID.String()},
	} {
		req.ID = uuid.New()
		var first api.Outcome
		e.spy.onGet = func(key string) {
			if key != record.OperationKey(req.ID) { // which was read, and was not there
				e.spy.onGet = nil
				first = e.submit(req)
			}
		}
		second := e.submit(req)
		if diff := cmp.Diff(first.Operation, second.Operation); diff != "" || first.Operation == nil {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
	e.check()
}

func TestCancel(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	for kind, op := range a.operations() {
		if kind == dataset.OpPurge {
			op = *e.submit(api.Request{Kind: kind, Volume: op.DatasetID.String()}).Operation
		} else if err := e.Record(e.ctx, a.id, a.report(op)); err != nil {
			t.Fatal(err)
		}
		got, err := e.CancelOperation(e.ctx, op.ID.String()[:13])
		if makes(kind) || kind == dataset.OpSnapshot {
			if err != nil || got.State != dataset.OpCancelled || got.Problem.Code != dataset.ErrCancelled.Code || !got.Ended.Equal(someday) {
				t.Errorf("%s: %+v, %v", kind, got, err)
			}
			if again, err := e.CancelOperation(e.ctx, op.ID.String()); err != nil || !cmp.Equal(got, again) {
				t.Errorf("%s again: %+v, %v", kind, again, err)
			}
			continue
		}
		refused(t, err, dataset.ErrUnsupported, string(kind), "taken back")
	}
	op := *e.submit(create("last")).Operation
	a.commit(op)
	_, err := e.CancelOperation(e.ctx, op.ID.String())
	refused(t, err, dataset.ErrConflict, "done already")
	_, err = e.CancelOperation(e.ctx, uuid.NewString())
	refused(t, err, dataset.ErrNotFound)
	e.check()
}

func TestOperationByPrefix(t *testing.T) {
	e := newEnv(t)
	e.agent("alpha")
	one, two := "abcd0000-0000-4000-8000-000000000001", "abcd0000-0000-4000-8000-000000000002"
	for i, id := range []string{one, two} {
		req := create([]string{"db1", "db2"}[i])
		req.ID = uuid.MustParse(id)
		e.submit(req)
	}
	for _, ref := range []string{one, strings.ToUpper(one)} {
		if op, err := e.Operation(e.ctx, ref, 0); err != nil || op.ID.String() != one {
			t.Errorf("%s: %v, %v", ref, op.ID, err)
		}
	}
	_, err := e.Operation(e.ctx, "abcd", 0)
	refused(t, err, dataset.ErrAmbiguous, "abcd")
	for _, ref := range []string{"", "abc", "db1", "beef", "../names", strings.Repeat("a", 1<<16)} {
		_, err := e.Operation(e.ctx, ref, time.Hour)
		refused(t, err, dataset.ErrNotFound, "operation ls")
	}
}

func TestOperationsAreListed(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	want := map[uuid.UUID]bool{}
	for range 23 {
		want[e.submit(create("db"+uuid.NewString())).Operation.ID] = true
	}
	first := a.open()[0]
	beat := api.Heartbeat{Incarnation: a.incarnation, Operations: []dataset.Operation{{ID: first.ID, Progress: dataset.Progress{Step: "making"}}}}
	if err := e.Heartbeat(e.ctx, a.id, beat); err != nil {
		t.Fatal(err)
	}
	n := 0
	for p := (api.Page{Limit: 5}); ; {
		list, err := e.Operations(e.ctx, p)
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

// waiting calls fn and returns once it has begun to wait; the result comes on the
// channel.
func waiting[T any](e *env, fn func() (T, error)) <-chan result[T] {
	e.Helper()
	done := make(chan result[T], 1)
	e.clock.begun = make(chan struct{}, 1)
	go func() {
		v, err := fn()
		done <- result[T]{v, err}
	}()
	<-e.clock.begun
	e.clock.begun = nil
	return done
}

type result[T any] struct {
	v   T
	err error
}

func TestOperationWaits(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	op := *e.submit(create("db")).Operation
	wait := func() <-chan result[dataset.Operation] {
		return waiting(e, func() (dataset.Operation, error) { return e.Operation(e.ctx, op.ID.String(), time.Minute) })
	}
	for i, p := range []dataset.Progress{{Step: "copying", Done: 1, Total: 3}, {Step: "copying", Done: 2, Total: 3}} {
		done := wait()
		beat := api.Heartbeat{Incarnation: a.incarnation, Operations: []dataset.Operation{{ID: op.ID, Progress: p}}}
		if err := e.Heartbeat(e.ctx, a.id, beat); err != nil {
			t.Fatal(err)
		}
		if r := <-done; r.err != nil || r.v.Progress != p {
			t.Errorf("%d: %+v, %v", i, r.v, r.err)
		}
	}
	done := wait()
	if err := e.Record(e.ctx, a.id, a.report(op)); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.err != nil || r.v.State != dataset.OpRunning {
		t.Errorf("%+v, %v", r.v, r.err)
	}
	// What has nothing to do with it lets nobody go.
	done = wait()
	e.submit(create("other"))
	if err := e.Heartbeat(e.ctx, a.id, api.Heartbeat{Incarnation: a.incarnation, Operations: []dataset.Operation{{ID: op.ID, Progress: dataset.Progress{Step: "copying", Done: 2, Total: 3}}}}); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-done:
		t.Errorf("woken for nothing: %+v", r)
	default:
	}
	a.commit(op)
	if r := <-done; r.err != nil || r.v.State != dataset.OpDone || r.v.Progress != (dataset.Progress{}) {
		t.Errorf("%+v, %v", r.v, r.err)
	}
	if got, err := e.Operation(e.ctx, op.ID.String(), time.Hour); err != nil || got.State != dataset.OpDone {
		t.Errorf("one that has ended: %+v, %v", got, err)
	}
	if n := len(e.Feed.Bells); n != 0 {
		t.Errorf("%d bells are left", n)
	}
}

// A wait ends with its time, its caller, the operation and the service.
func TestOperationWaitEnds(t *testing.T) {
	e := newEnv(t)
	e.agent("alpha")
	op := *e.submit(create("db")).Operation
	wait := func(ctx context.Context) <-chan result[dataset.Operation] {
		return waiting(e, func() (dataset.Operation, error) { return e.Operation(ctx, op.ID.String(), time.Minute) })
	}
	done := wait(e.ctx)
	e.clock.Advance(time.Minute)
	if r := <-done; r.err != nil || r.v.State != dataset.OpPending {
		t.Errorf("%+v, %v", r.v, r.err)
	}
	ctx, cancel := context.WithCancel(e.ctx)
	done = wait(ctx)
	cancel()
	if r := <-done; !errors.Is(r.err, context.Canceled) {
		t.Errorf("%+v, %v", r.v, r.err)
	}
	done = wait(e.ctx)
	if _, err := e.CancelOperation(e.ctx, op.ID.String()); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.err != nil || r.v.State != dataset.OpCancelled {
		t.Errorf("%+v, %v", r.v, r.err)
	}
	op = *e.submit(create("db2")).Operation
	done = wait(e.ctx)
	e.Service.Close()
	e.Service.Close()
	if r := <-done; dataset.KindOf(r.err) != dataset.ErrUnavailable {
		t.Errorf("%+v, %v", r.v, r.err)
	}
}
