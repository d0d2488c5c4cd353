package placement_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A dataset that is destroyed is destroyed on every node that has it, and its record is removed last.
func TestPurgeWithCopies(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	a.MustCreate("db@fleeting")
	d := e.MustMove("db", a, b, "beta")
	gone := api.CopyReport{Incarnation: a.Incarnation, Copy: dataset.Copy{Dataset: d.ID, Node: a.ID}, Removed: true}
	assert.ErrorIsf(t, a.ReportCopy(a.Ctx, a.ID, gone), dataset.ErrStale, "destroyed without a request")
	rev := a.MustSync(0).Revision
	d = b.MustDelete("db")
	if s := a.MustSync(rev); len(s.Copies) != 1 || s.Copies[0].Kind != dataset.CopyCondemned {
		t.Errorf("%+v", s)
	}
	b.MustPurge(d)
	b.MustPurge(d)
	if left := e.CheckInvariants().Datasets[d.ID]; left.Home != uuid.Nil || left.State != dataset.StatePurging {
		t.Errorf("%+v", left)
	}
	e.MustRefuse(api.Request{Kind: dataset.OpPurge, Volume: d.ID.String()}, dataset.ErrPending, "alpha")
	for range 2 {
		a.OK(a.ReportCopy(a.Ctx, a.ID, gone))
	}
	if st := e.CheckInvariants(); len(st.Datasets) != 0 {
		t.Errorf("%+v", st.Datasets)
	}
}

// The copy that a move leaves is removed after a day of uptime, and not earlier.
func TestLeftCopyExpires(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	a.MustCreate("db@gold")
	d := e.MustMove("db", a, b, "beta")
	e.Round()
	e.AdvanceClock(placement.LeftCopyRetention - 1)
	e.Memory.ForgetDue = e.Clock.Now()
	e.Round()
	if s := a.MustSync(0); s.Copies[0].Kind != dataset.CopyLeft {
		t.Errorf("gone early: %+v", s.Copies)
	}
	e.AdvanceClock(1)
	e.Memory.ForgetDue = e.Clock.Now()
	e.Round()
	s := a.MustSync(0)
	if s.Copies[0].Kind != dataset.CopyCondemned {
		t.Errorf("it stays: %+v", s.Copies)
	}
	k := s.Copies[0].Copy
	a.OK(a.ReportCopy(a.Ctx, a.ID, api.CopyReport{Incarnation: a.Incarnation, Copy: k, Removed: true}))
	if left := e.CheckInvariants().Datasets[d.ID]; len(left.Copies) != 0 || left.State != dataset.StateReady {
		t.Errorf("%+v", left)
	}
	if len(e.Failures) != 0 {
		t.Error(e.Failures)
	}
}

// The report of a node about an earlier copy, or about another epoch, does not change the recorded copy.
func TestStaleSightingsOfCopies(t *testing.T) {
	e := controltest.New(t)
	e.AddReplicaProfile(1)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	d := a.MustCreate("db@safe")
	says := func(epoch uint64) {
		t.Helper()
		c := dataset.Copy{Dataset: d.ID, Node: b.ID, Kind: dataset.CopyReplica, Epoch: epoch, Snapshot: uuid.New(), Taken: controltest.Start.Add(time.Hour)}
		b.OK(b.Heartbeat(b.Ctx, b.ID, api.Heartbeat{Incarnation: b.Incarnation, Copies: []dataset.Copy{c}}))
	}
	says(1)
	e.MustRefuse(controltest.ForcedMove("db", "beta", "alpha"), dataset.ErrNotFound, "no complete copy")
	b.ReportCopyTaken(d, controltest.Start)
	says(2)
	if op := e.MustSubmit(controltest.ForcedMove("db", "beta", "alpha")).Operation; !op.Loss.Taken.Equal(controltest.Start) {
		t.Errorf("%+v", op.Loss)
	}
}

// The copy at the target of a move is not removed, even if its time is over or there are more replicas than wanted.
func TestTargetOfAMoveKeepsItsCopy(t *testing.T) {
	e := controltest.New(t)
	e.AddReplicaProfile(1)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustCreate("db@silver")
	d := e.MustMove("db", a, b, "beta")
	e.Round()
	kind := func() dataset.CopyKind { e.CheckInvariants(); return a.MustSync(0).Copies[0].Kind }
	over := func() {
		e.AdvanceClock(2 * placement.LeftCopyRetention)
		e.Memory.ForgetDue, e.Memory.FullDue = e.Clock.Now(), e.Clock.Now()
		e.Round()
	}
	back := *e.MustSubmit(controltest.Move("db", "alpha")).Operation
	over()
	if got := kind(); got != dataset.CopyLeft {
		t.Errorf("the copy that a move left is %s during a move back to it", got)
	}
	e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
		c := dataset.Copy{Dataset: d.ID, Node: a.ID, Pool: a.LocalPools[0].ID, Kind: dataset.CopyReplica}
		return t.Put(record.CopyKey(a.ID, d.ID), c)
	}))
	over()
	if got := kind(); got != dataset.CopyReplica {
		t.Errorf("a replica is %s during a move to it", got)
	}
	e.OK(e.CancelOperation(e.Ctx, back.ID.String()))
	over()
	if got := kind(); got != dataset.CopyCondemned {
		t.Errorf("after the end of the move it is %s", got)
	}
}

// A node reports only its own copies.
func TestCopyOfAnotherNode(t *testing.T) {
	e, a, b := controltest.TwoNodes(t)
	d := a.MustCreate("db@gold")
	e.MustMove("db", a, b, "beta")
	before := e.Dump()
	c := dataset.Copy{Dataset: d.ID, Node: b.ID, Pool: a.LocalPools[0].ID, Kind: dataset.CopySuperseded, Epoch: 9, Snapshot: uuid.New(), Taken: controltest.Start}
	controltest.Refused(t, e.ReportCopy(e.Ctx, a.ID, api.CopyReport{Incarnation: a.Incarnation, Copy: c}), dataset.ErrForbidden, "node "+b.ID.String())
	if diff := cmp.Diff(before, e.Dump()); diff != "" {
		t.Errorf("it is on record (-before +after):\n%s", diff)
	}
}

// A node's report about its copy is accepted only if its epoch is not earlier than the recorded one, and while the
// copy is not condemned.
func TestLateWordOfACopy(t *testing.T) {
	e := controltest.New(t)
	e.AddReplicaProfile(1)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	d := a.MustCreate("db@safe")
	copyOf := func() (c dataset.Copy) {
		t.Helper()
		if there, err := record.NewTx(e.Ctx, e.Ledger.Store).Get(record.CopyKey(b.ID, d.ID), &c); err != nil || !there {
			t.Fatal(there, err)
		}
		return c
	}
	later := d
	later.Epoch++
	b.ReportCopyTaken(d, controltest.Start.Add(-time.Hour))
	b.ReportCopyTaken(d, controltest.Start)
	if got := copyOf(); !got.Taken.Equal(controltest.Start) {
		t.Errorf("a later snapshot of the same epoch is not accepted: %+v", got)
	}
	b.ReportCopyTaken(later, controltest.Start.Add(time.Hour))
	want := copyOf()
	if want.Epoch != later.Epoch || !want.Taken.Equal(controltest.Start.Add(time.Hour)) {
		t.Fatalf("%+v", want)
	}
	b.ReportCopyTaken(d, controltest.Start.Add(2*time.Hour))
	if got := copyOf(); got != want {
		t.Errorf("an earlier epoch: %+v, and it was %+v", got, want)
	}
	e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error { return record.CondemnCopy(t, b.ID, d.ID) }))
	want = copyOf()
	later.Epoch++
	b.ReportCopyTaken(later, controltest.Start.Add(3*time.Hour))
	if got := copyOf(); got != want {
		t.Errorf("it is condemned: %+v, and it was %+v", got, want)
	}
}

// I3: a copy that a move left does not expire if it is at the home itself, or is as late as the home's data: it may
// be the last good one.
func TestI3LeftCopyAsLateAsItsHome(t *testing.T) {
	for name, f := range map[string]func(a *controltest.Agent, d *dataset.Dataset){
		"it is the home's": func(a *controltest.Agent, d *dataset.Dataset) { d.Home = a.ID },
		"it is as late":    func(_ *controltest.Agent, d *dataset.Dataset) { d.Epoch-- },
	} {
		t.Run(name, func(t *testing.T) {
			e, a, b := controltest.TwoNodes(t)
			a.MustCreate("db@gold")
			d := e.MustMove("db", a, b, "beta")
			e.Round()
			e.EditDataset(d.ID, func(d *dataset.Dataset, _ *dataset.Lease) { f(a, d) })
			e.AdvanceClock(placement.LeftCopyRetention)
			e.Memory.ForgetDue = e.Clock.Now()
			e.Round()
			var c dataset.Copy
			if there, err := record.NewTx(e.Ctx, e.Ledger.Store).Get(record.CopyKey(a.ID, d.ID), &c); err != nil || !there || c.Kind != dataset.CopyLeft {
				t.Errorf("%+v, %v, %v", c, there, err)
			}
		})
	}
}

// The copy that a move left and a surplus replica stay while the home is silent, its present state is unknown, or it
// reports that it cannot open the volume or that its pool is quarantined or offline. They are removed once the home
// is well. The home's session continues meanwhile, through another replica of control.
func TestLastCopyStays(t *testing.T) {
	const held = "its generation is 5 and was 7"
	for what, tell := range map[string]func(l *controltest.LastCopy){
		"unheard":                    func(*controltest.LastCopy) {},
		"heard, and not of it":       func(l *controltest.LastCopy) { l.ReportHomePool(true, "") },
		"heard, and not of its pool": func(l *controltest.LastCopy) { l.Home.ReportOpen(l.Dataset, "") },
		"it cannot be opened": func(l *controltest.LastCopy) {
			l.ReportHomePool(true, "")
			l.Home.ReportOpen(l.Dataset, "it is not in the pool")
		},
		"its pool is offline": func(l *controltest.LastCopy) { l.Home.ReportOpen(l.Dataset, ""); l.ReportHomePool(false, "gone") },
		"its pool is held":    func(l *controltest.LastCopy) { l.Home.ReportOpen(l.Dataset, ""); l.ReportHomePool(false, held) },
		"the home is away":    func(l *controltest.LastCopy) { l.ReportHomeWell(); l.EndHome() },
		"the home is not heard any more": func(l *controltest.LastCopy) {
			l.ReportHomeWell()
			l.Wait(l.SecondService.Relocator.Timing.MaxClockAge() + 1)
		},
	} {
		t.Run(what, func(t *testing.T) {
			l := controltest.NewLastCopy(t)
			tell(l)
			if left, replica := letsGo(l); left != dataset.CopyLeft || replica != dataset.CopyReplica {
				t.Errorf("the copy that the move left is %s, the replica %s", left, replica)
			}
			l.RestartHome()
			l.ReportHomeWell()
			if left, replica := letsGo(l); left != dataset.CopyCondemned || replica != dataset.CopyCondemned {
				t.Errorf("the home is well, and the copy that the move left is %s, the replica %s", left, replica)
			}
		})
	}
}

// A copy is condemned while the home is well, and still exists when its node asks whether it may be destroyed. If the
// home was lost meanwhile, or reports that it does not have the volume, the copy becomes what it was before. If the
// home's state is unknown, the copy stays. Otherwise it is destroyed.
func TestCondemnedIsDecidedAgain(t *testing.T) {
	for what, c := range map[string]struct {
		then   func(l *controltest.LastCopy)
		answer *dataset.Kind
		last   bool
	}{
		"the home is well":               {then: func(*controltest.LastCopy) {}},
		"the home is away":               {then: func(l *controltest.LastCopy) { l.EndHome() }, answer: dataset.ErrStale, last: true},
		"it cannot be opened":            {then: func(l *controltest.LastCopy) { l.Home.ReportOpen(l.Dataset, "it is not in the pool") }, answer: dataset.ErrStale, last: true},
		"it may have lost writes":        {then: func(l *controltest.LastCopy) { l.Home.ReportOpen(l.Dataset, dataset.LostWrites+"and not synced") }},
		"its pool is held":               {then: func(l *controltest.LastCopy) { l.ReportHomePool(false, "its generation is 5 and was 7") }, answer: dataset.ErrStale, last: true},
		"the home is not heard any more": {then: func(l *controltest.LastCopy) { l.Wait(l.SecondService.Relocator.Timing.MaxClockAge() + 1) }, answer: dataset.ErrStale},
		"the store is not believed":      {then: func(l *controltest.LastCopy) { l.Left.ReportDistrust("it is older") }, answer: dataset.ErrConflict},
		"a person destroyed the volume":  {then: func(l *controltest.LastCopy) { l.Purge(); l.EndHome() }},
	} {
		t.Run(what, func(t *testing.T) {
			l := controltest.NewLastCopy(t)
			l.ReportHomeWell()
			if left, replica := letsGo(l); left != dataset.CopyCondemned || replica != dataset.CopyCondemned {
				t.Fatal(left, replica)
			}
			c.then(l)
			for g, was := range map[*controltest.Agent]dataset.CopyKind{l.Left: dataset.CopyLeft, l.Replica: dataset.CopyReplica} {
				k := g.MustSync(0).Copies[0]
				ask := func() error {
					return l.SecondService.ReportCopy(t.Context(), g.ID, api.CopyReport{Incarnation: g.Incarnation, Copy: k.Copy, ConfirmRemoval: true})
				}
				if err := ask(); dataset.KindOf(err) != c.answer {
					t.Errorf("the copy that was %s: %v", was, err)
				}
				want := dataset.CopyCondemned
				if c.last {
					want = was
				}
				if is := g.MustSync(0).Copies[0]; is.Kind != want || c.last && is.PreviousKind != "" {
					t.Errorf("the copy that was %s is %s, want %s", was, is.Kind, want)
				}
				before := l.Txns()
				if err := ask(); dataset.KindOf(err) != c.answer {
					t.Errorf("the copy that was %s, asked again: %v", was, err)
				}
				if l.Txns() != before {
					t.Errorf("the copy that was %s: asking again writes something", was)
				}
			}
		})
	}
}

// A drained node keeps its replica, also if it is the surplus one of two, while the other replica is on an
// unreachable or silent node, in an offline pool, or incomplete, and so is no substitute. No further replica is made
// either.
func TestReplicaThatDoesNotMakeUp(t *testing.T) {
	for what, c := range map[string]struct {
		then   func(l *controltest.LastCopy)
		leaves bool
	}{
		"it lives, and is whole":  {func(l *controltest.LastCopy) { l.Replica.ReportOnline(true) }, true},
		"its node is unreachable": {func(l *controltest.LastCopy) { l.Replica.ReportOnline(true); l.EndSession(l.Replica) }, false},
		"its node is not heard":   {func(*controltest.LastCopy) {}, false},
		"its pool is offline":     {func(l *controltest.LastCopy) { l.Replica.ReportOnline(false) }, false},
		"it is not whole": {func(l *controltest.LastCopy) {
			l.Replica.ReportOnline(true)
			l.EditCopy(l.Replica, func(c *dataset.Copy, _ *dataset.Node) { c.Snapshot, c.Taken = uuid.Nil, time.Time{} })
		}, false},
	} {
		for _, draining := range []bool{true, false} {
			t.Run(fmt.Sprint(what, ", drained ", draining), func(t *testing.T) {
				l := controltest.NewLastCopy(t)
				l.ReportHomeWell()
				l.Home.Control.NewAgent("delta") // which has enough space
				l.Restart(l.Left, "alpha")
				l.Restart(l.Replica, "gamma")
				l.Left.ReportOnline(true)
				l.EditCopy(l.Left, func(c *dataset.Copy, n *dataset.Node) {
					c.Kind, n.Draining, n.Cordoned = dataset.CopyReplica, draining, draining
					if !draining {
						c.Taken, c.Snapshot = controltest.Start.Add(-time.Hour), uuid.New()
					}
				})
				c.then(l)
				assert.NoError(t, l.SecondService.CopyKeeper.Maintain(t.Context(), l.SecondService.MustVolume("db").Dataset))
				v := l.SecondService.MustVolume("db")
				if len(v.CopyDetails) != 2 {
					t.Errorf("%d copies", len(v.CopyDetails))
				}
				goes := map[uuid.UUID]bool{l.Left.ID: c.leaves, l.Replica.ID: !c.leaves && !draining}
				for _, k := range v.CopyDetails {
					if (k.Kind == dataset.CopyCondemned) != goes[k.Node] {
						t.Errorf("the copy on %s is %s", k.NodeName, k.Kind)
					}
				}
			})
		}
	}
}

// letsGo has the keeper remove the copies that are not wanted any more, and returns what became of the copy.
func letsGo(l *controltest.LastCopy) (left, replica dataset.CopyKind) {
	l.Helper()
	e := l.SecondService
	e.OK(errors.Join(e.CopyKeeper.Expire(e.Ctx), e.CopyKeeper.Maintain(e.Ctx, e.MustVolume("db").Dataset)))
	return l.Left.MustSync(0).Copies[0].Kind, l.Replica.MustSync(0).Copies[0].Kind
}

// A copy that changed since it was examined is not removed.
func TestExpiryOfWhatIsAnotherCopyNow(t *testing.T) {
	l := controltest.NewLastCopy(t)
	l.ReportHomeWell()
	var was dataset.Copy
	l.EditCopy(l.Left, func(c *dataset.Copy, _ *dataset.Node) { was, c.Kind = *c, dataset.CopySuperseded })
	if _, err := l.SecondService.Ledger.Update(t.Context(), func(t *record.Tx) error { return l.SecondService.CopyKeeper.ExpireOne(t, was) }); err != nil {
		t.Fatal(err)
	}
	if is := l.Left.MustSync(0).Copies[0].Kind; is != dataset.CopySuperseded {
		t.Errorf("it is %s", is)
	}
}

// Control decides to remove a copy, and its home is lost before the decision is recorded: the copy stays.
func TestExpiryBesideALostHome(t *testing.T) {
	l := controltest.NewLastCopy(t)
	l.ReportHomeWell()
	l.SecondService.Spy = controltest.NewSpyStore(l.SecondService.Service.Ledger.Store)
	l.SecondService.Ledger.Store = l.SecondService.Spy
	l.SecondService.Spy.Before(l.EndHome)
	require.NoError(t, l.SecondService.CopyKeeper.Expire(t.Context()))
	if is := l.Left.MustSync(0).Copies[0].Kind; is != dataset.CopyLeft {
		t.Errorf("it is %s", is)
	}
}
