package control

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/replica"
	"github.com/droverhq/drover/dataset"
)

// change writes a dataset and its lease as no service would. A store that was restored or repaired may hold
// such records.
func (e *env) change(id uuid.UUID, f func(d *dataset.Dataset, l *dataset.Lease)) {
	e.Helper()
	_, err := e.Ledger.Update(e.ctx, func(t *record.Tx) error {
		d, err := t.Dataset(id)
		if err != nil {
			return err
		}
		l, err := t.Lease(d)
		if err != nil {
			return err
		}
		f(&d, &l)
		return errors.Join(t.Put(record.LeaseKey(id), l), t.PutDataset(d))
	})
	if err != nil {
		e.Fatalf("%v", err)
	}
}

// I1: a report about a move counts only while the dataset's move, home and epoch, and the epoch of its lease,
// are those that the move began with. Each of the four is compared, as one alone may differ.
func TestI1MoveOfAnotherEpoch(t *testing.T) {
	for name, f := range map[string]func(b *agent, d *dataset.Dataset, l *dataset.Lease){
		"another move":       func(_ *agent, d *dataset.Dataset, _ *dataset.Lease) { d.Move = uuid.New() },
		"another home":       func(b *agent, d *dataset.Dataset, _ *dataset.Lease) { d.Home = b.id },
		"a later epoch":      func(_ *agent, d *dataset.Dataset, _ *dataset.Lease) { d.Epoch++ },
		"the lease is later": func(_ *agent, _ *dataset.Dataset, l *dataset.Lease) { l.Epoch++ },
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			a, b := e.agent("alpha"), e.agent("beta")
			d := a.create("db@gold")
			op := *e.submit(moveTo("db", "beta")).Operation
			e.change(d.ID, func(d *dataset.Dataset, l *dataset.Lease) { f(b, d, l) })
			if _, err := b.Recall(b.ctx, b.id, b.report(op)); !errors.Is(err, dataset.ErrStale) {
				t.Errorf("it is recalled: %v", err)
			}
			e.change(d.ID, func(_ *dataset.Dataset, l *dataset.Lease) { l.State = dataset.LeaseRecalled })
			if err := a.yields(op, gaveUp(op)); !errors.Is(err, dataset.ErrStale) {
				t.Errorf("it is given up: %v", err)
			}
			e.change(d.ID, func(_ *dataset.Dataset, l *dataset.Lease) { l.State = dataset.LeaseMoving })
			op.Manifest = gaveUp(op)
			if err := b.commits(op); !errors.Is(err, dataset.ErrStale) {
				t.Errorf("it is committed: %v", err)
			}
		})
	}
}

// I1: a move is committed only while its lease says that the home has given it up, and with what it gave up on
// record: one alone may be so in a store that was repaired.
func TestI1MoveThatIsHalfGivenUp(t *testing.T) {
	for _, given := range []bool{true, false} {
		e := newEnv(t)
		a, b := e.agent("alpha"), e.agent("beta")
		d := a.create("db@gold")
		op := *e.submit(moveTo("db", "beta")).Operation
		b.recalls(op)
		state := dataset.LeaseMoving
		if given {
			state = dataset.LeaseRecalled
			if err := a.yields(op, gaveUp(op)); err != nil {
				t.Fatal(err)
			}
		}
		e.change(d.ID, func(_ *dataset.Dataset, l *dataset.Lease) { l.State = state })
		op.Manifest = gaveUp(op)
		if err := b.commits(op); !errors.Is(err, dataset.ErrConflict) {
			t.Errorf("given up %v, and it is committed: %v", given, err)
		}
	}
}

// I1: a move by force that takes the place of one whose home has given up its epoch opens the epoch after the
// one at which the home goes on.
func TestI1MoveByForceAfterItWasGivenUp(t *testing.T) {
	e := newEnv(t)
	a, b, c := e.agent("alpha"), e.agent("beta"), e.agent("gamma")
	a.create("db@gold")
	e.moved("db", a, b, "beta") // so alpha has a copy
	plain := *e.submit(moveTo("db", "gamma")).Operation
	c.recalls(plain)
	if err := b.yields(plain, gaveUp(plain)); err != nil {
		t.Fatal(err)
	}
	op := *e.submit(forced("db", "alpha", "beta")).Operation
	if op.Epoch != plain.Epoch+1 || op.Dataset.Epoch != plain.Epoch+2 {
		t.Fatalf("from epoch %d to %d, and the home gave up %d", op.Epoch, op.Dataset.Epoch, plain.Epoch)
	}
	if got := a.commit(op).Dataset; got.Home != a.id || got.Epoch != plain.Epoch+2 {
		t.Errorf("%+v", got)
	}
	e.check()
}

// What a node says of its copy is taken only if it is of no earlier epoch than is on record, and while the
// copy is not condemned.
func TestLateWordOfACopy(t *testing.T) {
	e := newEnv(t)
	e.replicated(1)
	a, b := e.agent("alpha"), e.agent("beta")
	d := a.create("db@safe")
	copyOf := func() (c dataset.Copy) {
		t.Helper()
		if there, err := record.NewTx(e.ctx, e.Ledger.Store).Get(record.CopyKey(b.id, d.ID), &c); err != nil || !there {
			t.Fatal(there, err)
		}
		return c
	}
	later := d
	later.Epoch++
	b.hasCopy(d, someday.Add(-time.Hour))
	b.hasCopy(d, someday)
	if got := copyOf(); !got.Taken.Equal(someday) {
		t.Errorf("a later snapshot of the same epoch is not taken: %+v", got)
	}
	b.hasCopy(later, someday.Add(time.Hour))
	want := copyOf()
	if want.Epoch != later.Epoch || !want.Taken.Equal(someday.Add(time.Hour)) {
		t.Fatalf("%+v", want)
	}
	b.hasCopy(d, someday.Add(2*time.Hour))
	if got := copyOf(); got != want {
		t.Errorf("an earlier epoch: %+v, and it was %+v", got, want)
	}
	if _, err := e.Ledger.Update(e.ctx, func(t *record.Tx) error { return record.CondemnCopy(t, b.id, d.ID) }); err != nil {
		t.Fatal(err)
	}
	want = copyOf()
	later.Epoch++
	b.hasCopy(later, someday.Add(3*time.Hour))
	if got := copyOf(); got != want {
		t.Errorf("it is condemned: %+v, and it was %+v", got, want)
	}
}

// I3: a copy that a move left does not expire where it is the home's own, or as late as what the home has: it
// may be the last good one.
func TestI3LeftCopyAsLateAsItsHome(t *testing.T) {
	for name, f := range map[string]func(a *agent, d *dataset.Dataset){
		"it is the home's": func(a *agent, d *dataset.Dataset) { d.Home = a.id },
		"it is as late":    func(_ *agent, d *dataset.Dataset) { d.Epoch-- },
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			a, b := e.agent("alpha"), e.agent("beta")
			a.create("db@gold")
			d := e.moved("db", a, b, "beta")
			e.rounds()
			e.change(d.ID, func(d *dataset.Dataset, _ *dataset.Lease) { f(a, d) })
			e.pass(replica.LeftFor)
			e.house.Forget = e.clock.Now()
			e.rounds()
			var c dataset.Copy
			if there, err := record.NewTx(e.ctx, e.Ledger.Store).Get(record.CopyKey(a.id, d.ID), &c); err != nil || !there || c.Kind != dataset.CopyLeft {
				t.Errorf("%+v, %v, %v", c, there, err)
			}
		})
	}
}

// I1: what is known of a node ends with its removal, also where its record has gone and only its certificate is
// on record as revoked.
func TestRevokedNodeStaysOut(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	_, err := e.Ledger.Update(e.ctx, func(t *record.Tx) error {
		t.Delete(record.NodeKey(a.id))
		return t.Put(record.RevokedNodeKey(a.id), record.Revocation{Node: a.id, At: someday, Until: someday.Add(time.Hour)})
	})
	if err != nil {
		t.Fatal(err)
	}
	r := api.Registration{Node: dataset.Node{ID: a.id, Name: "alpha", Incarnation: uuid.New()}}
	if err := a.Register(a.ctx, r); !errors.Is(err, dataset.ErrForbidden) {
		t.Errorf("it is let in: %v", err)
	}
}

// I1: a promotion by force is committed only for the home that was vouched for.
func TestI1PromotionOfAnotherHome(t *testing.T) {
	e := newEnv(t)
	a, b, c := e.agent("alpha"), e.agent("beta"), e.agent("gamma")
	a.create("db@gold")
	e.moved("db", a, b, "beta") // so alpha has a copy
	op := *e.submit(forced("db", "alpha", "beta")).Operation
	loss := *op.Loss
	loss.Fenced = c.id
	other := op
	other.Loss = &loss
	if err := a.commits(other); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("it is committed: %v", err)
	}
	a.commit(op)
}

// Of two copies of one moment either can be gone on from.
func TestCopiesOfOneMoment(t *testing.T) {
	x := newShared(t, 1)
	e := x.env(x.list[0])
	a, b, c := e.agent("alpha"), e.agent("beta"), e.agent("gamma")
	e.replicated(2)
	d := a.create("db@safe")
	b.hasCopy(d, someday)
	c.hasCopy(d, someday)
	x.dies(a)
	if op := e.submit(forced("db", "beta", "alpha")).Operation; op.Node != b.id {
		t.Errorf("%+v", op)
	}
}

// I1: nothing takes over a volume that its home has given up while the move that it was given up for is under
// way: its target may open the next epoch.
func TestI1NoFailoverOfWhatWasGivenUp(t *testing.T) {
	l := newLost(t, 1)
	op := *l.submit(moveTo("db", "gamma")).Operation
	l.c.recalls(op)
	if err := l.a.yields(op, gaveUp(op)); err != nil {
		t.Fatal(err)
	}
	l.x.dies(l.a)
	_, err := l.asks(l.Service, "beta")
	refused(t, err, dataset.ErrPending, "was given up by node alpha")
	l.passes(2*l.Limits.Session, l.b, l.c)
	_, err = l.asks(l.Service, "beta")
	refused(t, err, dataset.ErrPending, "was given up by node alpha")
}

// A copy whose node cannot take over is passed over, and the refusal says why where there is no other one.
func TestWhoCannotTakeOver(t *testing.T) {
	for why, change := range map[string]func(l *lost, a *agent){
		"is cordoned": func(l *lost, a *agent) { l.edit(a, func(n *dataset.Node) { n.Cordoned = true }) },
		"has no guard that answers": func(l *lost, a *agent) {
			if err := a.Heartbeat(a.ctx, a.id, api.Heartbeat{Incarnation: a.incarnation, Clock: a.clock.Now()}); err != nil {
				l.Fatalf("%v", err)
			}
		},
	} {
		t.Run(why, func(t *testing.T) {
			l := newLost(t, 1)
			change(l, l.b)
			l.x.dies(l.a)
			_, err := l.asks(l.Service, "beta")
			refused(t, err, dataset.ErrPending, "nothing is heard")
			l.passes(l.Limits.Session, l.b, l.c)
			if op, err := l.asks(l.Service, "beta"); err != nil || op.Node != l.c.id {
				t.Errorf("beta %s, and it is %+v, %v", why, op, err)
			}
		})
	}
}

// A service that was started since its copies were told of waits for that before it says that none can take over.
func TestCopiesThatWereNotHeardOf(t *testing.T) {
	l := newLost(t, 2)
	l.x.dies(l.a)
	late := l.x.list[1]
	_, err := l.asks(late, "beta")
	refused(t, err, dataset.ErrPending, "nothing is heard")
	l.passes(l.Limits.Session, l.b, l.c)
	_, err = l.asks(late, "beta")
	refused(t, err, dataset.ErrPending, "has not said yet")
}

// I1: what is rebuilt from what lies on a node gets a later epoch than any that is known of it.
func TestI1RebuiltEpochIsTheLatest(t *testing.T) {
	e := newEnv(t)
	a := e.agent("alpha")
	d := a.create("db@gold")
	e.change(d.ID, func(d *dataset.Dataset, l *dataset.Lease) { d.Epoch, l.Epoch = 7, 7 })
	const seen = 1 << 40 // after all that this store has
	a.rebuild(api.Found{Pool: d.Pool, Dataset: d, Index: seen})
	if got := e.volume("db").Epoch; got != 8 {
		t.Errorf("it is at epoch %d", got)
	}
}

// I1: a move is not committed without the word of what was pulled.
func TestI1MoveWithoutItsManifest(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	a.create("db@gold")
	op := *e.submit(moveTo("db", "beta")).Operation
	b.recalls(op)
	if err := a.yields(op, gaveUp(op)); err != nil {
		t.Fatal(err)
	}
	if err := b.commits(op); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("it is committed: %v", err)
	}
}
