package relocation_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// An error about an unreachable home says since when it is unreachable, which command continues without it, and what
// that loses. The volume cannot be continued without a home that is reachable.
func TestMoveFromAHomeThatIsAway(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	e := x.On(x.Services[0])
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	a.MustCreate("db@gold")
	e.MustMove("db", a, b, "beta") // alpha has a copy
	_, err := e.Submit(e.Ctx, controltest.ForcedMove("db", "alpha", "beta"))
	controltest.Refused(t, err, dataset.ErrConflict, "beta", "alive", "without --force")

	x.EndSession(b)
	x.Clock.Advance(time.Second)
	e.OK(e.RecordUnreachable(e.Ctx))
	e.MustRefuse(controltest.Move("db", "alpha"), dataset.ErrOffline, "node beta, which is unreachable since 2026-11-18T12:00:01Z", "drover volume move db alpha --force --fenced beta", "without the data written since 2026-11-18T12:00:00Z")
	c := e.NewAgent("gamma")
	e.MustRefuse(controltest.Move("db", "gamma"), dataset.ErrOffline, "drover volume move db alpha --force --fenced beta")
	c.MustCreate("solo@gold")
	x.EndSession(c)
	e.MustRefuse(controltest.Move("solo", "alpha"), dataset.ErrOffline, "node gamma, which is unreachable", "no other node has a complete copy")
	e.MustRefuse(controltest.Move("db", "gamma"), dataset.ErrOffline, "node gamma is unreachable")

	// A cordoned node does not take over, and the errors say how to end that.
	e.OK(e.Cordon(e.Ctx, a.ID, api.Cordoned{Cordoned: true}))
	e.MustRefuse(controltest.ForcedMove("db", "", "beta"), dataset.ErrConflict, "node alpha has the newest complete copy and is cordoned (drover node cordon --off alpha")
	e.MustRefuse(controltest.Move("db", "gamma"), dataset.ErrOffline, "node gamma is unreachable")
	e.OK(e.Cordon(e.Ctx, a.ID, api.Cordoned{}))
	op := *e.MustSubmit(controltest.ForcedMove("db", "alpha", "beta")).Operation
	// The home is reachable again before that is done. It opens nothing again, and keeps its data.
	b.Incarnation = a.ID
	b.MustRegister("beta")
	s := b.MustSync(0)
	if len(s.Datasets) != 1 || s.Datasets[0].Lease == nil || s.Datasets[0].Lease.State != dataset.LeaseMoving {
		t.Errorf("%+v", s)
	}
	_, err = e.Commit(e.Ctx, a.ID, a.ReportOf(op))
	controltest.Refused(t, err, dataset.ErrConflict, "node beta, is reachable again", "without --force")
	op.Problem = dataset.ProblemOf(err)
	if a.MustCommit(op); e.MustVolume("db").Home != b.ID {
		t.Error("it is not at its former home")
	}
	op.Problem = nil
	e.ForgetSession(b.ID)
	x.EndSession(b)
	op = *e.MustSubmit(controltest.ForcedMove("db", "alpha", "beta")).Operation
	if got := a.MustCommit(op); got.Dataset.Home != a.ID || got.Dataset.Epoch != 3 {
		t.Errorf("%+v", got.Dataset)
	}
	if v, err := e.Volumes(e.Ctx, api.Page{}); err != nil || len(v.Items) != 2 {
		t.Errorf("%+v, %v", v, err)
	}
}

// If the target of a move is lost, the home gets its volume back soon, whether it has yielded or not.
func TestMoveToANodeThatIsLost(t *testing.T) {
	for _, given := range []bool{false, true} {
		x := controltest.NewReplicas(t, 1)
		e := x.On(x.Services[0])
		a, b := e.NewAgent("alpha"), e.NewAgent("beta")
		a.MustCreate("db@gold")
		op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
		b.MustRecall(op)
		if given {
			a.OK(a.TryYield(op, controltest.Relinquished(op)))
		}
		x.EndSession(b)
		for _, wait := range []time.Duration{time.Second, housekeeping.LostMoveTimeout - time.Second, 2 * time.Second} {
			if got := e.MustVolume("db"); got.Move == uuid.Nil {
				t.Fatalf("yielded %v: returned before it was lost", given)
			}
			x.Clock.Advance(wait)
			e.OK(errors.Join(e.RecordUnreachable(e.Ctx), e.Housekeeper.EndLostMoves(e.Ctx)))
		}
		if got := e.MustVolume("db"); got.Move != uuid.Nil || got.Home != a.ID || got.Lease.State != dataset.LeaseHeld || given == (got.Epoch == 1) {
			t.Errorf("yielded %v: %+v, %+v", given, got.Dataset, got.Lease)
		}
	}
}

// Of two copies the later one takes over, as long as its node is reachable. With the other one, what it lacks would
// be lost.
func TestNoStalerCopy(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	e := x.On(x.Services[0])
	a, b, c := e.NewAgent("alpha"), e.NewAgent("beta"), e.NewAgent("gamma")
	e.AddReplicaProfile(2)
	d := a.MustCreate("db@safe")
	b.ReportCopyTaken(d, controltest.Start)
	c.ReportCopyTaken(d, controltest.Start.Add(time.Minute))
	x.EndSession(a)
	e.MustRefuse(controltest.ForcedMove("db", "beta", "alpha"), dataset.ErrConflict, "node gamma", "12:01:00Z", "node beta of 2026-11-18T12:00:00Z")
	x.EndSession(c)
	if op := e.MustSubmit(controltest.ForcedMove("db", "beta", "alpha")).Operation; op.Node != b.ID {
		t.Errorf("%+v", op)
	}
}

// A pool of a reachable node cannot be registered by another node. Nor does a node get its volumes by reporting that
// it found them.
func TestPoolsOfTheLiving(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	e := x.On(x.Services[0])
	a := e.NewAgent("alpha")
	d := a.MustCreate("db@gold")
	thief := &controltest.Agent{Control: e, ID: uuid.New(), Incarnation: uuid.New(), LocalPools: a.LocalPools}
	register := func() error {
		return e.Register(e.Ctx, api.Registration{Node: dataset.Node{ID: thief.ID, Name: "thief", Incarnation: thief.Incarnation}, Pools: thief.LocalPools})
	}
	controltest.Refused(t, register(), dataset.ErrInUse, "alpha", "alive")
	x.EndSession(a)
	e.OK(register())
	if r, err := e.Rebuild(e.Ctx, thief.ID, []api.FoundDataset{{Pool: d.Pool, Dataset: d}}, false); err != nil || r[0].Action != "restored" {
		t.Errorf("%+v, %v", r, err)
	}
}

// Which copy or snapshot is later is decided by the epoch first, because each home has another clock.
func TestLaterIsOfALaterEpoch(t *testing.T) {
	x := controltest.NewReplicas(t, 1)
	e := x.On(x.Services[0])
	a, b, c := e.NewAgent("alpha"), e.NewAgent("beta"), e.NewAgent("gamma")
	e.AddReplicaProfile(2)
	a.MustCreate("db@safe")
	old := a.MustSnapshot("db", "old")
	e.MustMove("db", a, b, "beta")
	d := e.MustVolume("db").Dataset
	set := func(id uuid.UUID, epoch uint64, at time.Time) {
		t.Helper()
		e.OK(e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
			var s dataset.Snapshot
			_, err := t.Get(record.SnapshotKey(d.ID, id), &s)
			s.Epoch, s.Created = epoch, at
			return errors.Join(err, t.Put(record.SnapshotKey(d.ID, id), s))
		}))
	}
	there, later, lost := b.MustSnapshot("db", "there"), b.MustSnapshot("db", "later"), b.MustSnapshot("db", "lost")
	set(old.ID, 1, controltest.Start.Add(time.Hour)) // alpha's clock is ahead
	set(there.ID, 2, controltest.Start)
	set(later.ID, 2, controltest.Start.Add(2*time.Minute))
	set(lost.ID, 2, controltest.Start.Add(2*time.Minute))
	d.Epoch = 1
	a.ReportCopyTaken(d, controltest.Start.Add(time.Hour))
	d.Epoch = 2
	c.ReportCopyTaken(d, controltest.Start)
	x.EndSession(b)
	_, err := e.Submit(e.Ctx, controltest.Move("db", "beta"))
	require.NoError(t, err)
	e.MustRefuse(controltest.ForcedMove("db", "alpha", "beta"), dataset.ErrConflict, "node gamma", "newer than that of node alpha")
	op := *e.MustSubmit(controltest.ForcedMove("db", "", "beta")).Operation
	if op.Node != c.ID || op.Loss.Epoch != 2 || !op.Loss.Taken.Equal(controltest.Start) {
		t.Fatalf("%+v", op.Loss)
	}
	at := func(epoch uint64, taken time.Time) dataset.Operation {
		worse := op
		worse.Loss = &dataset.Loss{Snapshot: uuid.New(), Epoch: epoch, Taken: taken, PreviousHome: b.ID}
		return worse
	}
	controltest.Refused(t, c.TryCommit(at(1, controltest.Start.Add(2*time.Hour))), dataset.ErrConflict, "lost than "+
		"confirmed")
	best := at(2, controltest.Start.Add(time.Minute))
	best.Loss.SurvivingSnapshots = []uuid.UUID{later.ID}
	c.MustCommit(best)
	left, err := e.Snapshots(e.Ctx, "db", api.Page{})
	require.NoError(t, err)
	names := map[string]bool{}
	for _, s := range left.Items {
		names[s.Name] = true
	}
	if len(names) != 3 || !names["old"] || !names["there"] || !names["later"] {
		t.Errorf("left are %v", names)
	}
}

// named returns the names of the snapshots of a volume.
func named(e *controltest.Control, volume string) map[string]bool {
	e.Helper()
	list, err := e.Snapshots(e.Ctx, volume, api.Page{})
	e.OK(err)
	names := map[string]bool{}
	for _, s := range list.Items {
		names[s.Name] = true
	}
	return names
}

// Snapshots that a promotion loses stay on record until the promotion is on record, whatever fails in the store
// meanwhile, and are removed by the next round after that at the latest.
func TestLossIsForgottenAfterItsPromotion(t *testing.T) {
	const many = 2*record.SnapshotsAtOnce + 2
	for n := 1; ; n++ {
		e, a, b := controltest.TwoNodes(t)
		a.MustCreate("db@silver")
		kept := a.MustSnapshot("db", "kept")
		d := e.MustMove("db", a, b, "beta")
		for i := range many {
			b.MustSnapshot("db", fmt.Sprint("lost-", i))
		}
		op := *e.MustSubmit(controltest.ForcedMove("db", "alpha", "beta")).Operation
		e.Spy.FailFrom(n, n%2 == 0)
		err := a.TryCommit(op)
		e.Spy.FailFrom(0, false)
		e.CheckInvariants()
		if e.MustVolume("db").Home == b.ID {
			if got := named(e, "db"); err == nil || len(got) != many+1 {
				t.Fatalf("failing at call %d: %v, and of %d snapshots %d are left with a home that is not overtaken", n, err, many+1, len(got))
			}
			continue
		}
		if v := e.MustVolume("db"); v.HeadParent != kept.ID || len(v.Losses) != 1 || v.Losses[0].EndedEpoch != d.Epoch {
			t.Fatalf("failing at call %d: latest %s, %+v", n, v.HeadParent, v.Losses)
		}
		failed := len(e.Failures) > 0
		e.Round()
		if got := named(e, "db"); len(got) != 1 || !got["kept"] {
			t.Fatalf("failing at call %d: left are %v", n, got)
		}
		if v := e.MustVolume("db"); !v.Losses[0].SnapshotsForgotten {
			t.Errorf("%+v", v.Losses)
		}
		if e.CheckInvariants(); !failed && err == nil {
			return // nothing fails any more
		}
	}
}

// A refused promotion has removed nothing.
func TestPromotionRefusedForgetsNothing(t *testing.T) {
	for what, befalls := range map[string]func(e *controltest.Control, a *controltest.Agent, d dataset.Dataset) error{
		"condemned": func(e *controltest.Control, a *controltest.Agent, d dataset.Dataset) error {
			_, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error { return record.CondemnCopy(t, a.ID, d.ID) })
			return err
		},
		"overtaken": func(e *controltest.Control, a *controltest.Agent, d dataset.Dataset) error {
			c := dataset.Copy{Dataset: d.ID, Node: a.ID, Kind: dataset.CopySuperseded, Epoch: d.Epoch, Snapshot: uuid.New(), Taken: controltest.Start}
			return e.ReportCopy(e.Ctx, a.ID, api.CopyReport{Incarnation: a.Incarnation, Copy: c})
		},
	} {
		t.Run(what, func(t *testing.T) { promotionRefused(t, befalls) })
	}
}

func promotionRefused(t *testing.T, befalls func(*controltest.Control, *controltest.Agent, dataset.Dataset) error) {
	e, a, b := controltest.TwoNodes(t)
	a.MustCreate("db@gold")
	d := e.MustMove("db", a, b, "beta")
	b.MustSnapshot("db", "mine")
	op := *e.MustSubmit(controltest.ForcedMove("db", "alpha", "beta")).Operation
	e.OK(befalls(e, a, d))
	controltest.Refused(t, a.TryCommit(op), dataset.ErrConflict, "no longer be used")
	if got := named(e, "db"); !got["mine"] {
		t.Errorf("left are %v", got)
	}
	e.OK(e.CancelOperation(e.Ctx, op.ID.String()))
	if v := e.MustVolume("db"); v.Home != b.ID || len(v.Losses) != 0 || v.HeadParent == uuid.Nil {
		t.Errorf("%+v", v.Dataset)
	}
	e.CheckInvariants()
}

// A report of the home is decided, and a yield is recorded before the report is committed. The report is refused, so
// that it does not change what the home has yielded. The report and the yield write different keys, so only the check
// of the lease that the report read can notice the yield.
func TestI1ReportBesideAYield(t *testing.T) {
	for _, kind := range []dataset.OpKind{
		dataset.OpSnapshot, dataset.OpSnapshotDelete, dataset.OpRestore, dataset.OpResize, dataset.OpDelete,
	} {
		t.Run(string(kind), func(t *testing.T) {
			e, a, b := controltest.TwoNodes(t)
			report := a.PlanEachKind()[kind]
			move := *e.MustSubmit(controltest.Move("db", "beta")).Operation
			b.MustRecall(move)
			var before map[string]string
			e.Spy.Before(func() {
				a.OK(a.TryYield(move, controltest.Relinquished(move)))
				before = e.Dump()
			})
			_, err := a.Commit(a.Ctx, a.ID, a.ReportOf(report))
			controltest.Refused(t, err, dataset.ErrConflict, "volume db is being moved to another node")
			if diff := cmp.Diff(before, e.Dump()); diff != "" {
				t.Errorf("the report changed what was yielded (-before +after):\n%s", diff)
			}
			e.CheckInvariants()
		})
	}
}

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
			e, a, b := controltest.TwoNodes(t)
			d := a.MustCreate("db@gold")
			op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
			e.EditDataset(d.ID, func(d *dataset.Dataset, l *dataset.Lease) { f(b, d, l) })
			if _, err := b.Recall(b.Ctx, b.ID, b.ReportOf(op)); !errors.Is(err, dataset.ErrStale) {
				t.Errorf("it is recalled: %v", err)
			}
			e.EditDataset(d.ID, func(_ *dataset.Dataset, l *dataset.Lease) { l.State = dataset.LeaseRecalled })
			assert.ErrorIsf(t, a.TryYield(op, controltest.Relinquished(op)), dataset.ErrStale, "it is yielded")
			e.EditDataset(d.ID, func(_ *dataset.Dataset, l *dataset.Lease) { l.State = dataset.LeaseMoving })
			op.Manifest = controltest.Relinquished(op)
			assert.ErrorIsf(t, b.TryCommit(op), dataset.ErrStale, "it is committed")
		})
	}
}

// I1: a move is committed only if its lease says that the home has yielded it and what the home yielded is on record.
// In a repaired store, only one of the two may be the case.
func TestI1MoveThatIsHalfGivenUp(t *testing.T) {
	for _, given := range []bool{true, false} {
		e, a, b := controltest.TwoNodes(t)
		d := a.MustCreate("db@gold")
		op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
		b.MustRecall(op)
		state := dataset.LeaseMoving
		if given {
			state = dataset.LeaseRecalled
			a.OK(a.TryYield(op, controltest.Relinquished(op)))
		}
		e.EditDataset(d.ID, func(_ *dataset.Dataset, l *dataset.Lease) { l.State = state })
		op.Manifest = controltest.Relinquished(op)
		assert.ErrorIsf(t, b.TryCommit(op), dataset.ErrConflict, "yielded %v, and it is committed", given)
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
	b.OK(b.TryYield(plain, controltest.Relinquished(plain)))
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
	assert.ErrorIsf(t, a.TryCommit(other), dataset.ErrConflict, "it is committed")
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
	l.OK(l.Alpha.TryYield(op, controltest.Relinquished(op)))
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
			a.OK(a.Heartbeat(a.Ctx, a.ID, api.Heartbeat{Incarnation: a.Incarnation, NodeTime: a.Clock.Now()}))
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
	e, a, b := controltest.TwoNodes(t)
	a.MustCreate("db@gold")
	op := *e.MustSubmit(controltest.Move("db", "beta")).Operation
	b.MustRecall(op)
	a.OK(a.TryYield(op, controltest.Relinquished(op)))
	assert.ErrorIsf(t, b.TryCommit(op), dataset.ErrConflict, "it is committed")
}
