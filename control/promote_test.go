package control

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// of returns an environment on one of the services.
func (x *shared) env(s *Service) *env {
	e := &env{tb: x.T, Service: s, ctx: context.Background(), clock: x.clock, profiles: x.names}
	e.house = e.Housekeeper.NewMemory()
	return e
}

// dies has the session of an agent end.
func (x *shared) dies(a *agent) {
	x.Helper()
	s := a.Service.Members.Session(a.id)
	if s.Session == "" {
		if _, err := a.Service.Members.Renew(x.Context(), a.id, a.incarnation); err != nil {
			x.Fatal(err)
		}
		s = a.Service.Members.Session(a.id)
	}
	if err := x.st.End(x.Context(), s.Session); err != nil {
		x.Fatal(err)
	}
}

// A home that is away is named, since when, with the command that goes on without it and
// what that loses; one that is alive is not gone on without.
func TestMoveFromAHomeThatIsAway(t *testing.T) {
	x := newShared(t, 1)
	e := x.env(x.list[0])
	a, b := e.agent("alpha"), e.agent("beta")
	a.create("db@gold")
	e.moved("db", a, b, "beta") // alpha has a copy
	_, err := e.Submit(e.ctx, forced("db", "alpha", "beta"))
	refused(t, err, dataset.ErrConflict, "beta", "alive", "without --force")

	x.dies(b)
	x.clock.Advance(time.Second)
	if err := e.LookForAway(e.ctx); err != nil {
		t.Fatal(err)
	}
	_, err = e.Submit(e.ctx, moveTo("db", "alpha"))
	refused(t, err, dataset.ErrOffline, "node beta, which is away since 2026-11-18T12:00:01Z",
		"drover volume move db alpha --force --fenced beta", "without what was written since 2026-11-18T12:00:00Z")
	c := e.agent("gamma")
	_, err = e.Submit(e.ctx, moveTo("db", "gamma"))
	refused(t, err, dataset.ErrOffline, "drover volume move db alpha --force --fenced beta")
	c.create("solo@gold")
	x.dies(c)
	_, err = e.Submit(e.ctx, moveTo("solo", "alpha"))
	refused(t, err, dataset.ErrOffline, "node gamma, which is away", "no other node has a whole copy")
	_, err = e.Submit(e.ctx, moveTo("db", "gamma"))
	refused(t, err, dataset.ErrOffline, "node gamma is away")

	op := *e.submit(forced("db", "alpha", "beta")).Operation
	// It is back before that is done: it opens nothing anew, and keeps what it has.
	b.incarnation = a.id
	b.register("beta")
	s := b.sync(0)
	if len(s.Datasets) != 1 || s.Datasets[0].Lease == nil || s.Datasets[0].Lease.State != dataset.LeaseMoving {
		t.Errorf("%+v", s)
	}
	_, err = e.Commit(e.ctx, a.id, a.report(op))
	refused(t, err, dataset.ErrConflict, "node beta, which has it, is back", "without --force")
	op.Problem = dataset.ProblemOf(err)
	if a.commit(op); e.volume("db").Home != b.id {
		t.Error("it is not where it was")
	}
	op.Problem = nil
	e.ForgetSession(b.id)
	x.dies(b)
	op = *e.submit(forced("db", "alpha", "beta")).Operation
	if got := a.commit(op); got.Dataset.Home != a.id || got.Dataset.Epoch != 3 {
		t.Errorf("%+v", got.Dataset)
	}
	if v, err := e.Volumes(e.ctx, api.Page{}); err != nil || len(v.Items) != 2 {
		t.Errorf("%+v, %v", v, err)
	}
}

// The home of a move whose target is lost has its volume back soon, given up or not.
func TestMoveToANodeThatIsLost(t *testing.T) {
	for _, given := range []bool{false, true} {
		x := newShared(t, 1)
		e := x.env(x.list[0])
		a, b := e.agent("alpha"), e.agent("beta")
		a.create("db@gold")
		op := *e.submit(moveTo("db", "beta")).Operation
		b.recalls(op)
		if given {
			if err := a.yields(op, gaveUp(op)); err != nil {
				t.Fatal(err)
			}
		}
		x.dies(b)
		for _, wait := range []time.Duration{time.Second, housekeeping.LostFor - time.Second, 2 * time.Second} {
			if got := e.volume("db"); got.Move == uuid.Nil {
				t.Fatalf("given up %v: back before it was lost", given)
			}
			x.clock.Advance(wait)
			if err := errors.Join(e.LookForAway(e.ctx), e.Housekeeper.EndLostMoves(e.ctx)); err != nil {
				t.Fatal(err)
			}
		}
		if got := e.volume("db"); got.Move != uuid.Nil || got.Home != a.id || got.Lease.State != dataset.LeaseHeld || given == (got.Epoch == 1) {
			t.Errorf("given up %v: %+v, %+v", given, got.Dataset, got.Lease)
		}
	}
}

// Of two copies the later one is gone on from, as long as its node is alive: the other
// would be made what the volume is, and what that lacks would be nowhere.
func TestNoStalerCopy(t *testing.T) {
	x := newShared(t, 1)
	e := x.env(x.list[0])
	a, b, c := e.agent("alpha"), e.agent("beta"), e.agent("gamma")
	e.replicated(2)
	d := a.create("db@safe")
	b.hasCopy(d, someday)
	c.hasCopy(d, someday.Add(time.Minute))
	x.dies(a)
	_, err := e.Submit(e.ctx, forced("db", "beta", "alpha"))
	refused(t, err, dataset.ErrConflict, "node gamma", "12:01:00Z", "node beta's of 2026-11-18T12:00:00Z")
	x.dies(c)
	if op := e.submit(forced("db", "beta", "alpha")).Operation; op.Node != b.id {
		t.Errorf("%+v", op)
	}
}

// opens says as the home of a dataset why it cannot open that; "": it can.
func (a *agent) opens(d dataset.Dataset, problem string) {
	a.Helper()
	h := api.Heartbeat{Incarnation: a.incarnation, Datasets: []dataset.DatasetStatus{{ID: d.ID, Problem: problem}}}
	if err := a.Heartbeat(a.ctx, a.id, h); err != nil {
		a.Fatalf("%v", err)
	}
}

// A pool of a node that is alive is nobody else's to register; nor are its volumes had by
// saying that they were found.
func TestPoolsOfTheLiving(t *testing.T) {
	x := newShared(t, 1)
	e := x.env(x.list[0])
	a := e.agent("alpha")
	d := a.create("db@gold")
	thief := &agent{env: e, id: uuid.New(), incarnation: uuid.New(), pools: a.pools}
	register := func() error {
		return e.Register(e.ctx, api.Registration{Node: dataset.Node{ID: thief.id, Name: "thief", Incarnation: thief.incarnation}, Pools: thief.pools})
	}
	refused(t, register(), dataset.ErrInUse, "alpha", "alive")
	x.dies(a)
	if err := register(); err != nil {
		t.Fatal(err)
	}
	if r, err := e.Rebuild(e.ctx, thief.id, []api.Found{{Pool: d.Pool, Dataset: d}}); err != nil || r[0].Action != "restored" {
		t.Errorf("%+v, %v", r, err)
	}
}

// Which copy, and which snapshot, is later the epoch says first: each has another clock.
func TestLaterIsOfALaterEpoch(t *testing.T) {
	x := newShared(t, 1)
	e := x.env(x.list[0])
	a, b, c := e.agent("alpha"), e.agent("beta"), e.agent("gamma")
	e.replicated(2)
	a.create("db@safe")
	old := a.snapshot("db", "old")
	e.moved("db", a, b, "beta")
	d := e.volume("db").Dataset
	set := func(id uuid.UUID, epoch uint64, at time.Time) {
		t.Helper()
		if _, err := e.Ledger.Update(e.ctx, func(t *record.Tx) error {
			var s dataset.Snapshot
			_, err := t.Get(record.SnapshotKey(d.ID, id), &s)
			s.Epoch, s.Created = epoch, at
			return errors.Join(err, t.Put(record.SnapshotKey(d.ID, id), s))
		}); err != nil {
			t.Fatal(err)
		}
	}
	there, later, lost := b.snapshot("db", "there"), b.snapshot("db", "later"), b.snapshot("db", "lost")
	set(old.ID, 1, someday.Add(time.Hour)) // alpha's clock went ahead
	set(there.ID, 2, someday)
	set(later.ID, 2, someday.Add(2*time.Minute))
	set(lost.ID, 2, someday.Add(2*time.Minute))
	d.Epoch = 1
	a.hasCopy(d, someday.Add(time.Hour))
	d.Epoch = 2
	c.hasCopy(d, someday)
	x.dies(b)
	_, err := e.Submit(e.ctx, moveTo("db", "beta"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Submit(e.ctx, forced("db", "alpha", "beta"))
	refused(t, err, dataset.ErrConflict, "node gamma", "later than node alpha's")
	op := *e.submit(forced("db", "", "beta")).Operation
	if op.Node != c.id || op.Loss.Epoch != 2 || !op.Loss.Taken.Equal(someday) {
		t.Fatalf("%+v", op.Loss)
	}
	at := func(epoch uint64, taken time.Time) dataset.Operation {
		worse := op
		worse.Loss = &dataset.Loss{Snapshot: uuid.New(), Epoch: epoch, Taken: taken, Fenced: b.id}
		return worse
	}
	refused(t, c.commits(at(1, someday.Add(2*time.Hour))), dataset.ErrConflict, "more than was said")
	best := at(2, someday.Add(time.Minute))
	best.Loss.Later = []uuid.UUID{later.ID}
	c.commit(best)
	left, err := e.Snapshots(e.ctx, "db", api.Page{})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, s := range left.Items {
		names[s.Name] = true
	}
	if len(names) != 3 || !names["old"] || !names["there"] || !names["later"] {
		t.Errorf("left are %v", names)
	}
}
