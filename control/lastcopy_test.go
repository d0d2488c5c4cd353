package control

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/replica"
	"github.com/droverhq/drover/dataset"
)

// What a move left, and a replica too many, stay while nothing is heard of the home, or not
// how it is now, or it says that it cannot open the volume, or that its pool is held or
// offline; and go once it is well. Its session goes on meanwhile, through another replica.
func TestLastCopyStays(t *testing.T) {
	const held = "its generation is 5 and was 7"
	for what, tell := range map[string]func(l *lastCopy){
		"unheard":                    func(*lastCopy) {},
		"heard, and not of it":       func(l *lastCopy) { l.pool(true, "") },
		"heard, and not of its pool": func(l *lastCopy) { l.home.opens(l.d, "") },
		"it cannot be opened":        func(l *lastCopy) { l.pool(true, ""); l.home.opens(l.d, "it is not in the pool") },
		"its pool is offline":        func(l *lastCopy) { l.home.opens(l.d, ""); l.pool(false, "gone") },
		"its pool is held":           func(l *lastCopy) { l.home.opens(l.d, ""); l.pool(false, held) },
		"the home is away":           func(l *lastCopy) { l.isWell(); l.goes() },
		"the home is not heard any more": func(l *lastCopy) {
			l.isWell()
			l.passes(l.keeper.Relocator.Limits.ClockTime() + 1)
		},
	} {
		t.Run(what, func(t *testing.T) {
			l := newLastCopy(t)
			tell(l)
			if left, replica := l.letsGo(); left != dataset.CopyLeft || replica != dataset.CopyReplica {
				t.Errorf("what was left is %s, the replica %s", left, replica)
			}
			l.comes()
			l.isWell()
			if left, replica := l.letsGo(); left != dataset.CopyGoing || replica != dataset.CopyGoing {
				t.Errorf("the home is well, and what was left is %s, the replica %s", left, replica)
			}
		})
	}
}

// What is condemned while the home is well, and is still there when its node asks whether it
// may go, is what it was when the home was lost meanwhile, or says that it has no volume; stays
// while that is not known; and goes otherwise.
func TestCondemnedIsDecidedAgain(t *testing.T) {
	for what, c := range map[string]struct {
		then   func(l *lastCopy)
		answer *dataset.Kind
		last   bool
	}{
		"the home is well":               {then: func(*lastCopy) {}},
		"the home is away":               {then: func(l *lastCopy) { l.goes() }, answer: dataset.ErrStale, last: true},
		"it cannot be opened":            {then: func(l *lastCopy) { l.home.opens(l.d, "it is not in the pool") }, answer: dataset.ErrStale, last: true},
		"its pool is held":               {then: func(l *lastCopy) { l.pool(false, "its generation is 5 and was 7") }, answer: dataset.ErrStale, last: true},
		"the home is not heard any more": {then: func(l *lastCopy) { l.passes(l.keeper.Relocator.Limits.ClockTime() + 1) }, answer: dataset.ErrStale},
		"the store is not believed":      {then: func(l *lastCopy) { l.left.distrust("it is older") }, answer: dataset.ErrConflict},
		"a person destroyed the volume":  {then: func(l *lastCopy) { l.purges(); l.goes() }},
	} {
		t.Run(what, func(t *testing.T) {
			l := newLastCopy(t)
			l.isWell()
			if left, replica := l.letsGo(); left != dataset.CopyGoing || replica != dataset.CopyGoing {
				t.Fatal(left, replica)
			}
			c.then(l)
			for g, was := range map[*agent]dataset.CopyKind{l.left: dataset.CopyLeft, l.replica: dataset.CopyReplica} {
				k := g.sync(0).Copies[0]
				ask := func() error {
					return l.keeper.Copied(t.Context(), g.id, api.Copied{Incarnation: g.incarnation, Copy: k.Copy, Asks: true})
				}
				if err := ask(); dataset.KindOf(err) != c.answer {
					t.Errorf("what was %s: %v", was, err)
				}
				want := dataset.CopyGoing
				if c.last {
					want = was
				}
				if is := g.sync(0).Copies[0]; is.Kind != want || c.last && is.Was != "" {
					t.Errorf("what was %s is %s, and not %s", was, is.Kind, want)
				}
				before := l.count()
				if err := ask(); dataset.KindOf(err) != c.answer {
					t.Errorf("what was %s, asked again: %v", was, err)
				}
				if l.count() != before {
					t.Errorf("what was %s: asked again something is written", was)
				}
			}
		})
	}
}

// A node that is drained keeps its replica, and of two that are one too many it is the one that
// stays, while the other is on a node that is away or not heard, in a pool that is offline, or
// not whole: that does not make up for it. Nor is another made.
func TestReplicaThatDoesNotMakeUp(t *testing.T) {
	for what, c := range map[string]struct {
		then   func(l *lastCopy)
		leaves bool
	}{
		"it lives, and is whole": {func(l *lastCopy) { l.replica.heard(true) }, true},
		"its node is away":       {func(l *lastCopy) { l.replica.heard(true); l.dies(l.replica) }, false},
		"its node is not heard":  {func(*lastCopy) {}, false},
		"its pool is offline":    {func(l *lastCopy) { l.replica.heard(false) }, false},
		"it is not whole": {func(l *lastCopy) {
			l.replica.heard(true)
			l.edits(l.replica, func(c *dataset.Copy, _ *dataset.Node) { c.Snapshot, c.Taken = uuid.Nil, time.Time{} })
		}, false},
	} {
		for _, draining := range []bool{true, false} {
			t.Run(fmt.Sprint(what, ", drained ", draining), func(t *testing.T) {
				l := newLastCopy(t)
				l.isWell()
				l.home.env.agent("delta") // which has room
				l.enters(l.left, "alpha")
				l.enters(l.replica, "gamma")
				l.left.heard(true)
				l.edits(l.left, func(c *dataset.Copy, n *dataset.Node) {
					c.Kind, n.Draining, n.Cordoned = dataset.CopyReplica, draining, draining
					if !draining {
						c.Taken, c.Snapshot = someday.Add(-time.Hour), uuid.New()
					}
				})
				c.then(l)
				if err := l.keeper.CopyKeeper.Maintain(t.Context(), l.keeper.volume("db").Dataset); err != nil {
					t.Error(err)
				}
				v := l.keeper.volume("db")
				if len(v.Kept) != 2 {
					t.Errorf("%d copies", len(v.Kept))
				}
				goes := map[uuid.UUID]bool{l.left.id: c.leaves, l.replica.id: !c.leaves && !draining}
				for _, k := range v.Kept {
					if (k.Kind == dataset.CopyGoing) != goes[k.Node] {
						t.Errorf("that on %s is %s", k.NodeName, k.Kind)
					}
				}
			})
		}
	}
}

// heard has a node say how its pool is.
func (a *agent) heard(online bool) { a.sees(dataset.PoolStatus{ID: a.pools[0].ID, Online: online}) }

// enters has a node begin anew, and the keeper hear it from then on.
func (l *lastCopy) enters(a *agent, name string) {
	l.Helper()
	a.incarnation = uuid.New()
	a.register(name)
	a.env = l.keeper
}

// edits changes the copy of a node, and has the profile want one replica.
func (l *lastCopy) edits(a *agent, change func(*dataset.Copy, *dataset.Node)) {
	l.Helper()
	if _, err := l.keeper.Ledger.Update(l.Context(), func(t *record.Tx) error {
		d, err := t.Dataset(l.d.ID)
		var c dataset.Copy
		var n dataset.Node
		_, cerr := t.Get(record.CopyKey(a.id, l.d.ID), &c)
		_, nerr := t.Get(record.NodeKey(a.id), &n)
		change(&c, &n)
		d.Profile.Replicas.Count = 1
		return errors.Join(err, cerr, nerr, record.KeepCopy(t, &d, c), t.Put(record.NodeKey(a.id), n))
	}); err != nil {
		l.Fatal(err)
	}
}

// lastCopy is a volume that moved to a home, a day ago; one service was told of all that, and
// another one, which keeps house, of nothing.
type lastCopy struct {
	*shared
	keeper              *env
	left, home, replica *agent
	d                   dataset.Dataset
}

func newLastCopy(t *testing.T) *lastCopy {
	x := newShared(t, 2)
	e := x.env(x.list[0])
	l := &lastCopy{shared: x, keeper: x.env(x.list[1]), left: e.agent("alpha"), home: e.agent("beta"), replica: e.agent("gamma")}
	l.left.create("db@silver")
	l.d = e.moved("db", l.left, l.home, "beta")
	if _, err := e.Ledger.Update(e.ctx, func(t *record.Tx) error {
		d, err := t.Dataset(l.d.ID)
		c := dataset.Copy{Dataset: d.ID, Node: l.replica.id, Pool: l.replica.pools[0].ID, Kind: dataset.CopyReplica, Epoch: d.Epoch, Snapshot: uuid.New(), Taken: someday}
		return errors.Join(err, record.KeepCopy(t, &d, c))
	}); err != nil {
		t.Fatal(err)
	}
	l.passes(2 * replica.LeftFor)
	return l
}

// comes has the home begin anew, by that service.
func (l *lastCopy) comes() {
	l.Helper()
	l.goes()
	l.home.env = l.left.env
	l.home.incarnation = uuid.New()
	l.home.register("beta")
	l.home.ForgetSession(l.home.id)
	l.home.env = l.keeper
}

// passes lets time pass, and has the home come again, whose session that was too long for.
func (l *lastCopy) passes(d time.Duration) {
	l.Helper()
	l.goes()
	l.keeper.pass(d)
	l.comes()
}

// goes has the session of the home end, which the service has that does not keep house.
func (l *lastCopy) goes() {
	l.Helper()
	l.home.env = l.left.env
	l.dies(l.home)
	l.home.env = l.keeper
}

// purges has a person destroy the volume for good.
func (l *lastCopy) purges() {
	l.Helper()
	l.home.delete("db")
	if _, err := l.keeper.Submit(l.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpPurge, Volume: l.d.ID.String()}); err != nil {
		l.Fatal(err)
	}
}

func (l *lastCopy) pool(online bool, why string) {
	l.Helper()
	l.home.sees(dataset.PoolStatus{ID: l.d.Pool, Online: online, Held: !online && why != "gone", Reason: why})
}

func (l *lastCopy) isWell() {
	l.Helper()
	l.pool(true, "")
	l.home.opens(l.d, "")
}

// letsGo has the keeper let go of what is wanted no more, and returns what became of it.
func (l *lastCopy) letsGo() (left, replica dataset.CopyKind) {
	l.Helper()
	e := l.keeper
	if err := errors.Join(e.CopyKeeper.Expire(e.ctx), e.CopyKeeper.Maintain(e.ctx, e.volume("db").Dataset)); err != nil {
		l.Fatal(err)
	}
	return l.left.sync(0).Copies[0].Kind, l.replica.sync(0).Copies[0].Kind
}

// A copy that became something else since it was looked at is not let go of.
func TestExpiryOfWhatIsAnotherCopyNow(t *testing.T) {
	l := newLastCopy(t)
	l.isWell()
	var was dataset.Copy
	l.edits(l.left, func(c *dataset.Copy, _ *dataset.Node) { was, c.Kind = *c, dataset.CopySuperseded })
	if _, err := l.keeper.Ledger.Update(t.Context(), func(t *record.Tx) error { return l.keeper.CopyKeeper.ExpireOne(t, was) }); err != nil {
		t.Fatal(err)
	}
	if is := l.left.sync(0).Copies[0].Kind; is != dataset.CopySuperseded {
		t.Errorf("it is %s", is)
	}
}

// Control decides to remove a copy, and its home is lost before the decision is recorded: the copy stays.
func TestExpiryBesideALostHome(t *testing.T) {
	l := newLastCopy(t)
	l.isWell()
	l.keeper.spy = newSpy(l.keeper.Service.Ledger.Store)
	l.keeper.useStore(l.keeper.spy)
	l.keeper.spy.first(l.goes)
	if err := l.keeper.CopyKeeper.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if is := l.left.sync(0).Copies[0].Kind; is != dataset.CopyLeft {
		t.Errorf("it is %s", is)
	}
}
