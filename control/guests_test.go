package control

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// stay is what an agent asks for; the ID is of the stay.
func (a *agent) stay(d dataset.Dataset, id uuid.UUID) (api.Indexed, error) {
	return a.Guest(a.ctx, a.id, api.Stay{Incarnation: a.incarnation, Dataset: d.ID, ID: id})
}

func (a *agent) stays(d dataset.Dataset) uuid.UUID {
	a.Helper()
	id := uuid.New()
	got, err := a.stay(d, id)
	if err != nil {
		a.Fatalf("stay: %v", err)
	}
	if g, stays := got.Stay(a.id); !stays || g.ID != id || got.Index == 0 {
		a.Errorf("it is let in as %+v of %+v", g, got)
	}
	return id
}

func (a *agent) leaves(d dataset.Dataset, id uuid.UUID) {
	a.Helper()
	if _, err := a.Guest(a.ctx, a.id, api.Stay{Incarnation: a.incarnation, Dataset: d.ID, ID: id, Over: true}); err != nil {
		a.Fatalf("end of a stay: %v", err)
	}
}

func (a *agent) createMany(name string) dataset.Dataset {
	a.Helper()
	a.profiles.byName["many"] = dataset.Profile{Name: "many", Revision: "r1-many", Quiesce: dataset.QuiesceNone, OnDelete: dataset.OnDelete{Mode: dataset.DeleteTrash}, Access: dataset.AccessMany}
	return a.create(name+"@many", "pool=shared")
}

// guests are the nodes on record as guests of a volume.
func (e *env) guests(volume string) (ids []uuid.UUID) {
	e.Helper()
	e.check()
	for _, g := range e.volume(volume).Guests {
		ids = append(ids, g.Node)
	}
	return ids
}

// A node of the share is on record as a guest from before it mounts the volume until it says
// that this is over: of that very stay, not of an earlier one.
func TestGuests(t *testing.T) {
	e := newEnv(t)
	share := uuid.New()
	a, b, c := e.onShare("alpha", share), e.onShare("beta", share), e.onShare("gamma", share)
	d := a.createMany("db")
	rev := b.sync(0).Rev
	first := b.stays(d)
	if s := b.sync(rev); len(s.Guests) != 1 || s.Guests[0].ID != d.ID || s.Guests[0].Index == 0 {
		t.Errorf("it hears %+v", s)
	}
	before := e.volume("db")
	if again, err := b.stay(d, first); err != nil || len(again.Guests) != 1 || e.volume("db").Lease.Epoch != before.Lease.Epoch {
		t.Errorf("asked again: %+v, %v", again, err)
	}
	c.stays(d)
	if got := e.guests("db"); !slices.Equal(got, []uuid.UUID{b.id, c.id}) {
		t.Errorf("on record: %v", got)
	}
	if v := e.volume("db"); v.Home != a.id || v.Epoch != d.Epoch || v.Move != uuid.Nil {
		t.Errorf("its home: %+v", v.Dataset)
	}
	second := b.stays(d)
	b.leaves(d, first) // which was under way for long
	if got := e.guests("db"); len(got) != 2 {
		t.Errorf("an earlier stay ended a later one: %v", got)
	}
	b.leaves(d, second)
	b.leaves(d, second)
	if got := e.guests("db"); !slices.Equal(got, []uuid.UUID{c.id}) {
		t.Errorf("on record: %v", got)
	}
	if s := b.sync(0); len(s.Guests) != 0 {
		t.Errorf("it hears %+v", s)
	}
	if s := c.sync(0); len(s.Guests) != 1 || !s.Full {
		t.Errorf("anew it hears %+v", s)
	}
}

// Who may not have it mounted beside its home is refused, and nothing is on record.
func TestGuestsThatAreRefused(t *testing.T) {
	e := newEnv(t)
	share := uuid.New()
	a, b := e.onShare("alpha", share), e.onShare("beta", share)
	other, off := e.onShare("gamma", uuid.New()), e.onShare("delta", uuid.Nil)
	d := a.createMany("db")
	one := a.createOnShare("one")
	for name, try := range map[string]struct {
		by   *agent
		d    dataset.Dataset
		id   uuid.UUID
		kind *dataset.Kind
		says string
	}{
		"one host at a time": {b, one, uuid.New(), dataset.ErrUnsupported, "access: many"},
		"another share":      {other, d, uuid.New(), dataset.ErrUnsupported, "node gamma has no pool on the share"},
		"no share":           {off, d, uuid.New(), dataset.ErrUnsupported, "node delta has no pool on the share"},
		"no such dataset":    {b, dataset.Dataset{ID: uuid.New()}, uuid.New(), dataset.ErrNotFound, "no dataset"},
		"no ID":              {b, d, uuid.Nil, dataset.ErrInvalid, "no ID"},
	} {
		_, err := try.by.stay(try.d, try.id)
		if err == nil {
			t.Errorf("%s: let in", name)
			continue
		}
		refused(t, err, try.kind, try.says)
	}
	stale := *b
	stale.incarnation = uuid.New()
	_, err := stale.stay(d, uuid.New())
	refused(t, err, dataset.ErrStale)
	op := *e.submit(moveTo("db", "beta")).Operation
	_, err = b.stay(d, uuid.New())
	refused(t, err, dataset.ErrPending, "is being moved", op.ID.String()[:8])
	if _, err := e.CancelOperation(e.ctx, op.ID.String()); err != nil {
		t.Fatal(err)
	}
	b.leaves(d, b.stays(d))
	a.delete("db")
	_, err = b.stay(d, uuid.New())
	refused(t, err, dataset.ErrNotFound, "was deleted")
	if got := e.check().datasets[d.ID].Guests; len(got) != 0 {
		t.Errorf("on record: %v", got)
	}
}

// What needs nobody else to use the volume is refused while it has guests, by their names, and
// so when one came since it was planned.
func TestGuestsAreInTheWay(t *testing.T) {
	e := newEnv(t)
	share := uuid.New()
	a, b := e.onShare("alpha", share), e.onShare("beta", share)
	d := a.createMany("db")
	rm := api.Request{Kind: dataset.OpDelete, Volume: "db"}
	planned := a.plan(rm)
	id := b.stays(d)
	two := api.Heartbeat{Incarnation: b.incarnation, Datasets: []dataset.DatasetStatus{{ID: d.ID, Mounted: true, Mounts: []dataset.Mount{{ID: "x", Count: 1}, {ID: "y", Count: 1}}}}}
	if err := e.Heartbeat(e.ctx, b.id, two); err != nil {
		t.Fatal(err)
	}
	refused(t, a.commits(planned), dataset.ErrInUse, "cannot delete volume db", "in use on beta (2 mounts)")
	a.planned(rm, dataset.ErrInUse, "beta (2 mounts)")
	for _, req := range []api.Request{moveTo("db", "beta"), rm, {Kind: dataset.OpUpdate, Volume: "db", Profile: "bronze"}} {
		refused(t, a.submits(req), dataset.ErrInUse, "volume db", "beta (2 mounts)")
	}
	_, err := a.stay(d, uuid.New())
	refused(t, err, dataset.ErrInUse, "beta (2 mounts)")
	if v := e.volume("db"); len(v.Visits) != 1 || v.Visits[0].NodeName != "beta" || v.Visits[0].Mounts != 2 || v.Visits[0].Alone {
		t.Errorf("people see %+v", v.Visits)
	}
	_, err = e.RemoveNode(e.ctx, "beta", false)
	refused(t, err, dataset.ErrInUse, "node beta uses db")
	b.leaves(d, id)
	a.do(rm)
	e.check()
}

// A home that has its dataset alone lets nobody in, and is let have it so by nobody who is.
func TestAloneAtHome(t *testing.T) {
	e := newEnv(t)
	share := uuid.New()
	a, b := e.onShare("alpha", share), e.onShare("beta", share)
	d := a.createMany("db")
	id := a.stays(d)
	_, err := b.stay(d, uuid.New())
	refused(t, err, dataset.ErrPending, "node alpha needs it alone")
	if v := e.volume("db"); len(v.Visits) != 1 || !v.Visits[0].Alone {
		t.Errorf("people see %+v", v.Visits)
	}
	a.snapshot("db", "at-rest") // what it is needed for
	again := a.stays(d)         // the agent was started anew meanwhile
	a.leaves(d, id)
	if _, err := b.stay(d, uuid.New()); dataset.KindOf(err) != dataset.ErrPending {
		t.Errorf("an earlier one ended it: %v", err)
	}
	a.leaves(d, again)
	b.stays(d)
	if got := e.guests("db"); !slices.Equal(got, []uuid.UUID{b.id}) {
		t.Errorf("on record: %v", got)
	}
}

// What is mounted already is put on record even where it would not be let in, as the truth.
func TestGuestsThatAreThereAlready(t *testing.T) {
	e := newEnv(t)
	share := uuid.New()
	a, b := e.onShare("alpha", share), e.onShare("beta", share)
	d := a.createMany("db")
	op := *e.submit(moveTo("db", "beta")).Operation
	c := e.onShare("gamma", share)
	if _, err := c.Guest(e.ctx, c.id, api.Stay{Incarnation: c.incarnation, Dataset: d.ID, ID: uuid.New(), Held: true}); err != nil {
		t.Fatal(err)
	}
	if got := e.guests("db"); !slices.Equal(got, []uuid.UUID{c.id}) {
		t.Errorf("on record: %v", got)
	}
	b.recalls(op)
	op.Manifest = &dataset.Manifest{Taken: someday}
	if err := a.yields(op, op.Manifest); err != nil {
		t.Fatal(err)
	}
	got := *b.commit(op).Dataset // within the share, where its mounts go on
	if g, stays := got.Stay(c.id); !stays || got.Home != b.id {
		t.Errorf("%+v, %+v", got, g)
	}
	e.check()
}

// Without its home a volume goes on where a guest is, which needs no stay any more; the others
// go on, and the home that was passed over is a guest until it says what it has.
func TestGuestsWithoutTheHome(t *testing.T) {
	e := newEnv(t)
	share := uuid.New()
	a, b, c := e.onShare("alpha", share), e.onShare("beta", share), e.onShare("gamma", share)
	d := a.createMany("db")
	b.stays(d)
	c.stays(d)
	got := *b.commit(*e.submit(forced("db", "beta", "alpha")).Operation).Dataset
	if got.Home != b.id {
		t.Fatalf("%+v", got)
	}
	if on := e.guests("db"); !slices.Equal(on, []uuid.UUID{c.id, a.id}) {
		t.Errorf("on record: %v", on)
	}
	s := a.sync(0)
	if len(s.Guests) != 1 || len(s.Datasets) != 0 {
		t.Fatalf("the one that was passed over hears %+v", s)
	}
	stay, _ := s.Guests[0].Stay(a.id)
	a.leaves(d, stay.ID)
	if on := e.guests("db"); !slices.Equal(on, []uuid.UUID{c.id}) {
		t.Errorf("on record: %v", on)
	}
	one := a.createOnShare("one")
	if got := *b.commit(*e.submit(forced("one", "beta", "alpha")).Operation).Dataset; got.ID != one.ID || len(got.Guests) != 0 {
		t.Errorf("of one host at a time: %+v", got)
	}
}

// A guest that is lost is in the way until a person vouches that it writes no more, or it is
// back; and it goes with its node then, not before.
func TestLostGuest(t *testing.T) {
	x := newShared(t, 1)
	e := x.env(x.list[0])
	share := uuid.New()
	l := &lost{env: e, x: x, a: e.onShare("alpha", share), b: e.onShare("beta", share)}
	c := e.onShare("gamma", share)
	d := l.a.createMany("db")
	l.b.stays(d)
	c.stays(d)
	x.dies(l.b)
	rm := api.Request{Kind: dataset.OpDelete, Volume: "db"}
	l.a.planned(rm, dataset.ErrInUse, "beta (which is away", "drover node fence beta --confirmed", "gamma (0 mounts)")
	if _, err := e.Fence(e.ctx, l.b.id, api.Fenced{Confirmed: true}); err != nil {
		t.Fatal(err)
	}
	_, err := l.a.Plan(e.ctx, l.a.id, rm)
	refused(t, err, dataset.ErrInUse, "in use on gamma (0 mounts)")
	x.dies(c)
	_, err = e.RemoveNode(e.ctx, "gamma", false)
	refused(t, err, dataset.ErrInUse, "node gamma uses db", "drover node fence gamma --confirmed")
	// Its certificate alone goes by force: what it has mounted it may write to.
	if out, err := e.RemoveNode(e.ctx, "gamma", true); err != nil || out.Removed.IsZero() {
		t.Fatal(out, err)
	}
	l.a.planned(rm, dataset.ErrInUse, "in use on gamma (which is away", "drover node fence gamma --confirmed")
	_, err = l.a.stay(d, uuid.New())
	refused(t, err, dataset.ErrInUse, "in use on gamma")
	if _, err := e.Fence(e.ctx, c.id, api.Fenced{Confirmed: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.RemoveNode(e.ctx, "gamma", false); err != nil {
		t.Fatal(err)
	}
	_, err = e.RemoveNode(e.ctx, "gamma", false)
	refused(t, err, dataset.ErrInvalid, "unknown node")
	if v := e.volume("db"); len(v.Visits) != 1 || !v.Visits[0].Fenced || !v.Visits[0].Away {
		t.Errorf("people see %+v", v.Visits)
	}
	l.returns(l.b, "beta") // the word is over
	list, _ := e.EventLog.After(0)
	back := slices.IndexFunc(list, func(ev api.Event) bool {
		return strings.Contains(ev.Detail, "vouched that it writes no more: what it has mounted")
	})
	if back < 0 || list[back].Type != "node.live" || list[back].Node != "beta" {
		t.Errorf("its return is told as %+v", list)
	}
	l.a.planned(rm, dataset.ErrInUse, "beta")
	x.dies(l.b)
	if _, err := e.Fence(e.ctx, l.b.id, api.Fenced{Confirmed: true}); err != nil {
		t.Fatal(err)
	}
	l.a.do(rm)
	l.returns(l.b, "beta")
	if s := l.b.sync(0); len(s.Guests) != 0 {
		t.Errorf("it hears %+v", s)
	}
	_, err = l.b.stay(d, uuid.New())
	refused(t, err, dataset.ErrNotFound)
}

// A profile of access many is kept on a share alone; the refusal says why, and a volume keeps
// its home when another one mounts it.
func TestAccessManyWantsAShare(t *testing.T) {
	e := newEnv(t)
	a := e.onShare("alpha", uuid.New())
	a.createMany("first")
	a.planned(create("db@many", "pool=fast"), dataset.ErrUnsupported, "several hosts cannot have a volume of it mounted at once")
	if d := a.create("db@many"); d.Pool != a.pools[1].ID {
		t.Errorf("it lies on pool %s", d.Pool)
	}
	a.create("one@bronze", "pool=fast")
	_, err := e.Submit(e.ctx, api.Request{Kind: dataset.OpUpdate, Volume: "one", Profile: "many"})
	refused(t, err, dataset.ErrUnsupported, "several hosts cannot have a volume of it mounted at once")
}

// A volume does not move away from its share while a guest has it mounted, also one that came since the move was
// asked for.
func TestGuestsOfAVolumeThatLeavesItsShare(t *testing.T) {
	e := newEnv(t)
	share := uuid.New()
	a, b, c := e.onShare("alpha", share), e.onShare("beta", uuid.New()), e.onShare("gamma", share)
	d := a.createMany("db")
	op := *e.submit(moveTo("db", "beta")).Operation
	if op.Share {
		t.Fatal("both are on one share")
	}
	b.recalls(op)
	op.Manifest = gaveUp(op)
	if err := a.yields(op, op.Manifest); err != nil {
		t.Fatal(err)
	}
	id := uuid.New()
	held := api.Stay{Incarnation: c.incarnation, Dataset: d.ID, ID: id, Held: true}
	if _, err := c.Guest(e.ctx, c.id, held); err != nil {
		t.Fatal(err)
	}
	refused(t, b.commits(op), dataset.ErrInUse, "cannot move volume db", "gamma")
	c.leaves(d, id)
	if got := *b.commit(op).Dataset; got.Home != b.id {
		t.Errorf("%+v", got)
	}
	e.check()
}
