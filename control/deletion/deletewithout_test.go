package deletion_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// If the home of a volume is unreachable, the volume is deleted only if a person confirms it. It then goes to the
// trash, even if its profile has no trash, because nobody has checked the data.
func TestDeleteWithoutTheHome(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	e := x.On(x.Services[0])
	e.Spy = controltest.NewSpyStore(x.Store)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	d, own := a.MustCreate("db@fleeting"), a.MustCreate("own", "protect=true")
	a.MustCreate("late@fleeting")
	del := func(volume, fenced string, force bool) api.Request {
		return api.Request{ID: uuid.New(), Kind: dataset.OpDelete, Volume: volume, Force: force, Fenced: fenced}
	}
	denied := func(req api.Request, kind *dataset.Kind, parts ...string) {
		t.Helper()
		_, err := e.Submit(e.Ctx, req)
		controltest.Refused(t, err, kind, parts...)
	}
	denied(del("db", "alpha", true), dataset.ErrConflict, "alpha", "alive", "omit --fenced")
	waits := *e.MustSubmit(del("db", "", false)).Operation // alpha does not hear of it any more
	others := []uuid.UUID{e.MustSubmit(del("late", "", false)).Operation.ID, e.MustSubmit(api.Request{Kind: dataset.OpSnapshot, Volume: "db"}).Operation.ID}

	x.EndSession(a)
	x.Clock.Advance(time.Second)
	if err := e.RecordUnreachable(e.Ctx); err != nil {
		t.Fatal(err)
	}
	denied(del("own", "", true), dataset.ErrOffline, "node alpha, which is unreachable since 2026-11-18T12:00:01Z", "drover volume rm own --force --fenced alpha")
	denied(del("db", "alpha", false), dataset.ErrInvalid, "requires --force")
	denied(del("db", "beta", true), dataset.ErrInvalid, "alpha, not beta")
	denied(del("db", "nobody", true), dataset.ErrInvalid, "nobody")
	_, err := e.Submit(controltest.As(controltest.NodeIdentity("beta", b.ID)), del("db", "alpha", true))
	controltest.Refused(t, err, dataset.ErrForbidden, "may not delete volume db without its home")
	b.MustRefusePlan(del("db", "alpha", true), dataset.ErrInvalid, "submit it")
	if p, err := a.Plan(e.Ctx, a.ID, del("late", "", false)); err != nil || p.Operation == nil { // to itself it is reachable
		t.Errorf("planned by the home: %+v, %v", p, err)
	}
	e.CheckInvariants()

	req := del("db", "alpha", true)
	for range 2 { // the second call is a retry
		out := e.MustSubmit(req)
		if v := out.Volume; out.Operation.State != dataset.OpDone || v == nil || v.State != dataset.StateTrashed || !v.Trash.Expires.IsZero() || v.Home != a.ID || v.Epoch != d.Epoch {
			t.Fatalf("%+v, %+v", out.Operation, out.Volume)
		}
	}
	if v := e.MustSubmit(del("own", "alpha", true)).Volume; v.State != dataset.StateTrashed || v.Protected || v.Trash.Expires.Sub(v.Trash.At) != e.TrashTime() {
		t.Errorf("%+v", v)
	}
	if op := e.MustOperation(waits.ID); op.State != dataset.OpCancelled {
		t.Errorf("the delete that waits for the home is %s", op.State)
	}
	for _, id := range others {
		if op := e.MustOperation(id); op.State != dataset.OpPending {
			t.Errorf("%s of volume %s, which waits for the home as well, is %s", op.Kind, op.Volume, op.State)
		}
	}
	if other := b.MustCreate("db"); other.ID == d.ID || other.Home != b.ID {
		t.Errorf("the name is not free: %+v", other)
	}
	e.CheckInvariants()

	// A person restores the volume before the home is reachable again. The home's return does not delete it a second
	// time.
	e.MustSubmit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String(), Name: "back"})
	a.Incarnation = uuid.New()
	a.MustRegister("alpha")
	s := a.MustSync(0)
	if len(s.Operations) != len(others) || len(s.Datasets) != 3 {
		t.Errorf("after its return, the home gets %+v, %+v", s.Operations, s.Datasets)
	}
	for _, found := range s.Datasets {
		if want := map[uuid.UUID]dataset.State{own.ID: dataset.StateTrashed}[found.ID]; want != "" && found.State != want || found.State == dataset.StatePurging {
			t.Errorf("%s is %s", found.Volume, found.State)
		}
	}
	if err := a.TryCommit(waits); dataset.KindOf(err) != dataset.ErrCancelled {
		t.Errorf("the delete that waited for the home: %v", err)
	}
	if v := e.MustVolume("back"); v.ID != d.ID || v.State != dataset.StateReady {
		t.Errorf("%+v", v)
	}
	e.CheckInvariants()
}

// On a single host there is no other home that a person could confirm as stopped.
func TestDeleteWithoutAnother(t *testing.T) {
	e := controltest.New(t)
	e.NewAgent("alpha").MustCreate("db")
	_, err := e.Submit(e.Ctx, api.Request{ID: uuid.New(), Kind: dataset.OpDelete, Volume: "db", Force: true, Fenced: "alpha"})
	controltest.Refused(t, err, dataset.ErrUnsupported, "delete of volume db: there is no other node", "omit --fenced")
	if v := e.MustVolume("db"); v.State != dataset.StateReady {
		t.Errorf("%+v", v)
	}
	e.CheckInvariants()
}
