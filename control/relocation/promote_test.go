package relocation_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
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
	if err := e.RecordUnreachable(e.Ctx); err != nil {
		t.Fatal(err)
	}
	_, err = e.Submit(e.Ctx, controltest.Move("db", "alpha"))
	controltest.Refused(t, err, dataset.ErrOffline, "node beta, which is unreachable since 2026-11-18T12:00:01Z",
		"drover volume move db alpha --force --fenced beta", "without the data written since 2026-11-18T12:00:00Z")
	c := e.NewAgent("gamma")
	_, err = e.Submit(e.Ctx, controltest.Move("db", "gamma"))
	controltest.Refused(t, err, dataset.ErrOffline, "drover volume move db alpha --force --fenced beta")
	c.MustCreate("solo@gold")
	x.EndSession(c)
	_, err = e.Submit(e.Ctx, controltest.Move("solo", "alpha"))
	controltest.Refused(t, err, dataset.ErrOffline, "node gamma, which is unreachable", "no other node has a complete copy")
	_, err = e.Submit(e.Ctx, controltest.Move("db", "gamma"))
	controltest.Refused(t, err, dataset.ErrOffline, "node gamma is unreachable")

	// A cordoned node does not take over, and the errors say how to end that.
	if _, err := e.Cordon(e.Ctx, a.ID, api.Cordoned{Cordoned: true}); err != nil {
		t.Fatal(err)
	}
	_, err = e.Submit(e.Ctx, controltest.ForcedMove("db", "", "beta"))
	controltest.Refused(t, err, dataset.ErrConflict, "node alpha has the newest complete copy and is cordoned (drover node cordon --off alpha")
	_, err = e.Submit(e.Ctx, controltest.Move("db", "gamma"))
	controltest.Refused(t, err, dataset.ErrOffline, "node gamma is unreachable")
	if _, err := e.Cordon(e.Ctx, a.ID, api.Cordoned{}); err != nil {
		t.Fatal(err)
	}
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
			if err := a.TryYield(op, controltest.Relinquished(op)); err != nil {
				t.Fatal(err)
			}
		}
		x.EndSession(b)
		for _, wait := range []time.Duration{time.Second, housekeeping.LostMoveTimeout - time.Second, 2 * time.Second} {
			if got := e.MustVolume("db"); got.Move == uuid.Nil {
				t.Fatalf("yielded %v: returned before it was lost", given)
			}
			x.Clock.Advance(wait)
			if err := errors.Join(e.RecordUnreachable(e.Ctx), e.Housekeeper.EndLostMoves(e.Ctx)); err != nil {
				t.Fatal(err)
			}
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
	_, err := e.Submit(e.Ctx, controltest.ForcedMove("db", "beta", "alpha"))
	controltest.Refused(t, err, dataset.ErrConflict, "node gamma", "12:01:00Z", "node beta of 2026-11-18T12:00:00Z")
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
	if err := register(); err != nil {
		t.Fatal(err)
	}
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
		if _, err := e.Ledger.Update(e.Ctx, func(t *record.Tx) error {
			var s dataset.Snapshot
			_, err := t.Get(record.SnapshotKey(d.ID, id), &s)
			s.Epoch, s.Created = epoch, at
			return errors.Join(err, t.Put(record.SnapshotKey(d.ID, id), s))
		}); err != nil {
			t.Fatal(err)
		}
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
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Submit(e.Ctx, controltest.ForcedMove("db", "alpha", "beta"))
	controltest.Refused(t, err, dataset.ErrConflict, "node gamma", "newer than that of node alpha")
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
