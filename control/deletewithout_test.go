package control

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A volume whose home is away is deleted by a person's word alone, and then it goes to the
// trash, where its profile would have it destroyed too: nobody has looked at what is there.
func TestDeleteWithoutTheHome(t *testing.T) {
	x := newShared(t, 1)
	e := x.env(x.list[0])
	e.spy = newSpy(x.st)
	a, b := e.agent("alpha"), e.agent("beta")
	d, own := a.create("db@fleeting"), a.create("own", "protect=true")
	a.create("late@fleeting")
	del := func(volume, fenced string, force bool) api.Request {
		return api.Request{ID: uuid.New(), Kind: dataset.OpDelete, Volume: volume, Force: force, Fenced: fenced}
	}
	denied := func(req api.Request, kind *dataset.Kind, parts ...string) {
		t.Helper()
		_, err := e.Submit(e.ctx, req)
		refused(t, err, kind, parts...)
	}
	denied(del("db", "alpha", true), dataset.ErrConflict, "alpha", "alive", "leave --fenced out")
	waits := *e.submit(del("db", "", false)).Operation // which alpha does not hear of any more
	others := []uuid.UUID{e.submit(del("late", "", false)).Operation.ID, e.submit(api.Request{Kind: dataset.OpSnapshot, Volume: "db"}).Operation.ID}

	x.dies(a)
	x.clock.Advance(time.Second)
	if err := e.LookForAway(e.ctx); err != nil {
		t.Fatal(err)
	}
	denied(del("own", "", true), dataset.ErrOffline, "node alpha, which is away since 2026-11-18T12:00:01Z", "drover volume rm own --force --fenced alpha")
	denied(del("db", "alpha", false), dataset.ErrInvalid, "goes with --force")
	denied(del("db", "beta", true), dataset.ErrInvalid, "alpha that has it, not beta")
	denied(del("db", "nobody", true), dataset.ErrInvalid, "nobody")
	_, err := e.Submit(as(nodeNamed("beta", b.id)), del("db", "alpha", true))
	refused(t, err, dataset.ErrForbidden, "may not delete volume db without its home")
	b.planned(del("db", "alpha", true), dataset.ErrInvalid, "submit it")
	if p, err := a.Plan(e.ctx, a.id, del("late", "", false)); err != nil || p.Operation == nil { // it is not away to itself
		t.Errorf("planned by the home: %+v, %v", p, err)
	}
	e.check()

	req := del("db", "alpha", true)
	for range 2 { // the second is a retry
		out := e.submit(req)
		if v := out.Volume; out.Operation.State != dataset.OpDone || v == nil || v.State != dataset.StateTrashed || !v.Trash.Until.IsZero() || v.Home != a.id || v.Epoch != d.Epoch {
			t.Fatalf("%+v, %+v", out.Operation, out.Volume)
		}
	}
	if v := e.submit(del("own", "alpha", true)).Volume; v.State != dataset.StateTrashed || v.Protected || v.Trash.Until.Sub(v.Trash.At) != e.trashTime() {
		t.Errorf("%+v", v)
	}
	if op := e.operationNow(waits.ID); op.State != dataset.OpCancelled {
		t.Errorf("the delete that waits for the home is %s", op.State)
	}
	for _, id := range others {
		if op := e.operationNow(id); op.State != dataset.OpPending {
			t.Errorf("%s of volume %s, which waits for the home too, is %s", op.Kind, op.Volume, op.State)
		}
	}
	if other := b.create("db"); other.ID == d.ID || other.Home != b.id {
		t.Errorf("the name is not free: %+v", other)
	}
	e.check()

	// Somebody brings one back before the home is: that does not delete it again.
	e.submit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String(), Name: "back"})
	a.incarnation = uuid.New()
	a.register("alpha")
	s := a.sync(0)
	if len(s.Operations) != len(others) || len(s.Datasets) != 3 {
		t.Errorf("the home that is back hears %+v, %+v", s.Operations, s.Datasets)
	}
	for _, found := range s.Datasets {
		if want := map[uuid.UUID]dataset.State{own.ID: dataset.StateTrashed}[found.ID]; want != "" && found.State != want || found.State == dataset.StatePurging {
			t.Errorf("%s is %s", found.Volume, found.State)
		}
	}
	if err := a.commits(waits); dataset.KindOf(err) != dataset.ErrCancelled {
		t.Errorf("the delete that waited: %v", err)
	}
	if v := e.volume("back"); v.ID != d.ID || v.State != dataset.StateReady {
		t.Errorf("%+v", v)
	}
	e.check()
}

// On one host there is no home but this one: nobody can be vouched for.
func TestDeleteWithoutAnother(t *testing.T) {
	e := newEnv(t)
	e.agent("alpha").create("db")
	_, err := e.Submit(e.ctx, api.Request{ID: uuid.New(), Kind: dataset.OpDelete, Volume: "db", Force: true, Fenced: "alpha"})
	refused(t, err, dataset.ErrUnsupported, "delete of volume db: there is no other node", "leave --fenced out")
	if v := e.volume("db"); v.State != dataset.StateReady {
		t.Errorf("%+v", v)
	}
	e.check()
}
