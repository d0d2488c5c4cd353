package relocation_test

import (
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// I1: a report about a move counts only while the dataset's move, home and epoch, and the epoch of its lease,
// are those that the move began with. Each of the four is compared, as one alone may differ.
func TestI1MoveOfAnotherEpoch(t *testing.T) {
	for name, f := range map[string]func(b *controltest.Agent, d *dataset.Dataset, l *dataset.Lease){
		"another move":       func(_ *controltest.Agent, d *dataset.Dataset, _ *dataset.Lease) { d.Move = uuid.New() },
		"another home":       func(b *controltest.Agent, d *dataset.Dataset, _ *dataset.Lease) { d.Home = b.ID },
		"a later epoch":      func(_ *controltest.Agent, d *dataset.Dataset, _ *dataset.Lease) { d.Epoch++ },
		"the lease is later": func(_ *controltest.Agent, _ *dataset.Dataset, l *dataset.Lease) { l.Epoch++ },
	} {
		t.Run(name, func(t *testing.T) {
			e := controltest.New(t)
			a, b := e.NewAgent("alpha"), e.NewAgent("beta")
			d := a.MustCreate("db@gold")
			op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
			e.EditDataset(d.ID, func(d *dataset.Dataset, l *dataset.Lease) { f(b, d, l) })
			if _, err := b.Recall(b.Ctx, b.ID, b.ReportOf(op)); !errors.Is(err, dataset.ErrStale) {
				t.Errorf("it is recalled: %v", err)
			}
			e.EditDataset(d.ID, func(_ *dataset.Dataset, l *dataset.Lease) { l.State = dataset.LeaseRecalled })
			if err := a.TryYield(op, controltest.Relinquished(op)); !errors.Is(err, dataset.ErrStale) {
				t.Errorf("it is yielded: %v", err)
			}
			e.EditDataset(d.ID, func(_ *dataset.Dataset, l *dataset.Lease) { l.State = dataset.LeaseMoving })
			op.Manifest = controltest.Relinquished(op)
			if err := b.TryCommit(op); !errors.Is(err, dataset.ErrStale) {
				t.Errorf("it is committed: %v", err)
			}
		})
	}
}

// I1: a move is committed only if its lease says that the home has yielded it and what the home yielded is on record.
// In a repaired store, only one of the two may be the case.
func TestI1MoveThatIsHalfGivenUp(t *testing.T) {
	for _, given := range []bool{true, false} {
		e := controltest.New(t)
		a, b := e.NewAgent("alpha"), e.NewAgent("beta")
		d := a.MustCreate("db@gold")
		op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
		b.MustRecall(op)
		state := dataset.LeaseMoving
		if given {
			state = dataset.LeaseRecalled
			if err := a.TryYield(op, controltest.Relinquished(op)); err != nil {
				t.Fatal(err)
			}
		}
		e.EditDataset(d.ID, func(_ *dataset.Dataset, l *dataset.Lease) { l.State = state })
		op.Manifest = controltest.Relinquished(op)
		if err := b.TryCommit(op); !errors.Is(err, dataset.ErrConflict) {
			t.Errorf("yielded %v, and it is committed: %v", given, err)
		}
	}
}

// I1: a forced move that replaces a move whose home has yielded opens the epoch after the one at which the home
// continues.
func TestI1MoveByForceAfterItWasGivenUp(t *testing.T) {
	e := controltest.New(t)
	a, b, c := e.NewAgent("alpha"), e.NewAgent("beta"), e.NewAgent("gamma")
	a.MustCreate("db@gold")
	e.MustMove("db", a, b, "beta") // so alpha has a copy
	plain := *e.MustSubmit(controltest.Move("db", "gamma")).Operation
	c.MustRecall(plain)
	if err := b.TryYield(plain, controltest.Relinquished(plain)); err != nil {
		t.Fatal(err)
	}
	op := *e.MustSubmit(controltest.ForcedMove("db", "alpha", "beta")).Operation
	if op.Epoch != plain.Epoch+1 || op.DatasetRecord.Epoch != plain.Epoch+2 {
		t.Fatalf("from epoch %d to %d, and the home yielded %d", op.Epoch, op.DatasetRecord.Epoch, plain.Epoch)
	}
	if got := a.MustCommit(op).Dataset; got.Home != a.ID || got.Epoch != plain.Epoch+2 {
		t.Errorf("%+v", got)
	}
	e.CheckInvariants()
}

// I1: a forced promotion is committed only for the home that was confirmed as stopped.
func TestI1PromotionOfAnotherHome(t *testing.T) {
	e := controltest.New(t)
	a, b, c := e.NewAgent("alpha"), e.NewAgent("beta"), e.NewAgent("gamma")
	a.MustCreate("db@gold")
	e.MustMove("db", a, b, "beta") // so alpha has a copy
	op := *e.MustSubmit(controltest.ForcedMove("db", "alpha", "beta")).Operation
	loss := *op.Loss
	loss.PreviousHome = c.ID
	other := op
	other.Loss = &loss
	if err := a.TryCommit(other); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("it is committed: %v", err)
	}
	a.MustCommit(op)
}

// Of two copies of the same moment, either can take over.
func TestCopiesOfOneMoment(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	e := x.On(x.Services[0])
	a, b, c := e.NewAgent("alpha"), e.NewAgent("beta"), e.NewAgent("gamma")
	e.AddReplicaProfile(2)
	d := a.MustCreate("db@safe")
	b.ReportCopyTaken(d, controltest.Start)
	c.ReportCopyTaken(d, controltest.Start)
	x.EndSession(a)
	if op := e.MustSubmit(controltest.ForcedMove("db", "beta", "alpha")).Operation; op.Node != b.ID {
		t.Errorf("%+v", op)
	}
}

// I1: nothing takes over a volume that its home has yielded for a move while that move is in progress, because the
// move's target may open the next epoch.
func TestI1NoFailoverOfWhatWasGivenUp(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	op := *l.MustSubmit(controltest.Move("db", "gamma")).Operation
	l.Gamma.MustRecall(op)
	if err := l.Alpha.TryYield(op, controltest.Relinquished(op)); err != nil {
		t.Fatal(err)
	}
	l.Replicas.EndSession(l.Alpha)
	_, err := l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrPending, "was relinquished by node alpha")
	l.Wait(2*l.Timing.Session, l.Beta, l.Gamma)
	_, err = l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrPending, "was relinquished by node alpha")
}

// A copy whose node cannot take over is skipped. If no other copy exists, the refusal says why.
func TestWhoCannotTakeOver(t *testing.T) {
	for why, change := range map[string]func(l *controltest.LostHome, a *controltest.Agent){
		"is cordoned": func(l *controltest.LostHome, a *controltest.Agent) {
			l.EditNode(a, func(n *dataset.Node) { n.Cordoned = true })
		},
		"has no guard that responds": func(l *controltest.LostHome, a *controltest.Agent) {
			if err := a.Heartbeat(a.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation, NodeTime: a.Clock.Now()}); err != nil {
				l.Fatalf("%v", err)
			}
		},
	} {
		t.Run(why, func(t *testing.T) {
			l := controltest.NewLostHome(t, 1)
			change(l, l.Beta)
			l.Replicas.EndSession(l.Alpha)
			_, err := l.AskFailover(l.Service, "beta")
			controltest.Refused(t, err, dataset.ErrPending, "is unreachable")
			l.Wait(l.Timing.Session, l.Beta, l.Gamma)
			if op, err := l.AskFailover(l.Service, "beta"); err != nil || op.Node != l.Gamma.ID {
				t.Errorf("beta %s, and it is %+v, %v", why, op, err)
			}
		})
	}
}

// A service that was started after the copies were reported waits for new reports before it says that no copy can
// take over.
func TestCopiesThatWereNotHeardOf(t *testing.T) {
	l := controltest.NewLostHome(t, 2)
	l.Replicas.EndSession(l.Alpha)
	late := l.Replicas.Services[1]
	_, err := l.AskFailover(late, "beta")
	controltest.Refused(t, err, dataset.ErrPending, "is unreachable")
	l.Wait(l.Timing.Session, l.Beta, l.Gamma)
	_, err = l.AskFailover(late, "beta")
	controltest.Refused(t, err, dataset.ErrPending, "has not reported its state yet")
}

// I1: a move is not committed without a report of what was pulled.
func TestI1MoveWithoutItsManifest(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustCreate("db@gold")
	op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
	b.MustRecall(op)
	if err := a.TryYield(op, controltest.Relinquished(op)); err != nil {
		t.Fatal(err)
	}
	if err := b.TryCommit(op); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("it is committed: %v", err)
	}
}
