package placement_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

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
				if err := l.SecondService.CopyKeeper.Maintain(t.Context(), l.SecondService.MustVolume("db").Dataset); err != nil {
					t.Error(err)
				}
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
	if err := errors.Join(e.CopyKeeper.Expire(e.Ctx), e.CopyKeeper.Maintain(e.Ctx, e.MustVolume("db").Dataset)); err != nil {
		l.Fatal(err)
	}
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
	if err := l.SecondService.CopyKeeper.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if is := l.Left.MustSync(0).Copies[0].Kind; is != dataset.CopyLeft {
		t.Errorf("it is %s", is)
	}
}
