package relocation_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// A volume that fails over automatically, and its replicas, are placed only on nodes with a guard. A host that works
// alone has no other node to fail over to, so no volume there becomes such a volume.
func TestFailoverWantsGuards(t *testing.T) {
	e := controltest.New(t)
	controltest.AddAutoFailover(e.ProfileSet, 1)
	e.NewAgent("alpha").MustRefusePlan(controltest.Create("db@auto"), dataset.ErrUnsupported, "profile auto has failover auto", "works alone")

	x := controltest.NewReplicas(t, 1)
	e = x.On(x.Services[0])
	controltest.AddAutoFailover(x.Profiles, 1)
	a, b, c := e.NewAgent("alpha"), e.NewAgent("beta"), e.NewAgent("gamma")
	a.MustRefusePlan(controltest.Create("db@auto"), dataset.ErrUnsupported, "nodes alpha, beta, gamma: pool fast: its node has no guard", "systemctl enable --now drover-guard")
	a.ReportGuard()
	a.MustRefusePlan(controltest.Create("db@auto"), dataset.ErrUnsupported, "of node beta: its node has no guard", "of node gamma")
	c.ReportGuard()
	d := a.MustCreate("db@auto")
	if d.Home != a.ID || d.Profile.Failover.Fence.Kind != dataset.FenceGuard {
		t.Errorf("%+v", d)
	}
	if got := e.MustVolume("db").Copies; len(got) != 1 || got[0] != c.ID {
		t.Errorf("replicas on %v", got)
	}
	_, err := e.Submit(e.Ctx, controltest.Move("db", "beta"))
	controltest.Refused(t, err, dataset.ErrUnsupported, "its node has no guard")
	b.ReportGuard()
	e.MustSubmit(controltest.Move("db", "beta"))
}

// A home that was silent for the length of a session is failed over. The time is measured by each service's steady
// clock, the freshest copy takes over, and all callers share one failover.
func TestFailover(t *testing.T) {
	l := controltest.NewLostHome(t, 2)
	if op, err := l.AskFailover(l.Service, "beta"); op != nil || err != nil {
		t.Errorf("with its home reachable: %+v, %v", op, err)
	}
	l.Replicas.EndSession(l.Alpha)
	l.Wait(membership.LossCheckInterval, l.Beta, l.Gamma) // as after a check just now
	for range 3 {
		_, err := l.AskFailover(l.Service, "gamma")
		controltest.Refused(t, err, dataset.ErrPending, "node alpha, which is unreachable")
		l.Wait(l.Timing.Session/3-time.Millisecond, l.Beta, l.Gamma)
		l.Clock.Set(l.Clock.Now().Add(-time.Hour)) // which does not count as elapsed time
	}
	l.Wait(4*time.Millisecond, l.Beta, l.Gamma)
	_, err := l.AskFailover(l.Replicas.Services[1], "gamma") // it has only started to check
	controltest.Refused(t, err, dataset.ErrPending)
	op, err := l.AskFailover(l.Service, "gamma")
	if err != nil || op == nil || op.Node != l.Beta.ID || op.OtherNode != l.Alpha.ID || op.DatasetRecord.Epoch != 2 || op.Loss.UnreachableIndex == 0 || !op.Loss.Taken.Equal(controltest.Start.Add(-10*time.Second)) {
		t.Fatalf("%+v, %v", op, err)
	}
	for i, s := range l.Replicas.Services {
		if again, err := l.AskFailover(s, []string{"beta", "gamma"}[i]); err != nil || again == nil || again.ID != op.ID {
			t.Errorf("asked again: %+v, %v", again, err)
		}
	}
	if lease := l.MustVolume("db").Lease; lease.State != dataset.LeaseHeld {
		t.Errorf("the returning home must continue: %+v", lease)
	}
	done := l.Beta.MustCommit(*op)
	if done.Dataset.Home != l.Beta.ID || done.Dataset.Epoch != 2 {
		t.Errorf("%+v", done.Dataset)
	}
	l.RestartAgent(l.Alpha, "alpha")
	if got := l.Alpha.MustSync(0).Copies; len(got) != 1 || got[0].Kind != dataset.CopySuperseded {
		t.Errorf("the superseded home: %+v", got)
	}
	var told []string
	if err := l.Events(t.Context(), 0, false, func(ev api.Event) error {
		if ev.Volume == "db" {
			told = append(told, string(ev.Type)+": "+ev.Detail)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	all := strings.Join(told, "\n")
	for _, want := range []string{
		"volume.failover: from node alpha to node beta, without the data written since 2026-11-18T11:59:50Z (automatically: node alpha",
		"volume.move: from node alpha to node beta, without the data written since 2026-11-18T11:59:50Z (automatically",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%s\ndoes not say %q", all, want)
		}
	}
}

// A failover ends without any change if its home is reachable again before the failover is on record, even for a
// moment. The home continues at its epoch, with its snapshots.
func TestI1FailoverWhoseHomeIsBack(t *testing.T) {
	for name, again := range map[string]bool{"back": false, "back and gone again": true} {
		l := controltest.NewLostHome(t, 1)
		snap := l.Alpha.MustSnapshot("db", "kept")
		op := l.MustFailOver()
		l.RestartAgent(l.Alpha, "alpha")
		if again {
			l.Replicas.EndSession(l.Alpha)
			if err := l.RecordUnreachable(l.Ctx); err != nil {
				t.Fatal(err)
			}
			l.Wait(l.Timing.Session, l.Beta, l.Gamma)
		}
		_, err := l.Commit(l.Ctx, l.Beta.ID, l.Beta.ReportOf(op))
		controltest.Refused(t, err, dataset.ErrConflict, "node alpha, is reachable again")
		failed := op
		failed.Problem = dataset.ProblemOf(err)
		l.Beta.MustCommit(failed)
		now := l.MustVolume("db")
		if now.Home != l.Alpha.ID || now.Epoch != 1 || now.Move != uuid.Nil || now.Lease.Epoch != 1 || now.Lease.State != dataset.LeaseHeld {
			t.Errorf("%s: %+v, %+v", name, now.Dataset, now.Lease)
		}
		if s, err := l.Snapshot(l.Ctx, "db", "kept"); err != nil || s.ID != snap.ID {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}

// I1: a home whose guard did not answer its last heartbeat is not fenced by the passing of time, so no copy takes over
// automatically. It does once a person has confirmed that the home is fenced.
func TestI1NoFailoverOfAHomeWithoutGuard(t *testing.T) {
	l := controltest.NewLostHome(t, 2)
	h := api.Heartbeat{Incarnation: l.Alpha.Incarnation, NodeTime: l.Clock.Now()}
	if err := l.Heartbeat(l.Ctx, l.Alpha.ID, h); err != nil {
		t.Fatal(err)
	}
	l.Replicas.EndSession(l.Alpha)
	if err := l.RecordUnreachable(l.Ctx); err != nil {
		t.Fatal(err)
	}
	l.Wait(l.Timing.Session, l.Beta, l.Gamma)
	_, err := l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrOffline, "the guard of node alpha did not respond",
		"drover volume move db beta --force --fenced alpha")
	if _, err := l.Fence(l.Ctx, l.Alpha.ID, api.Fenced{Confirmed: true}); err != nil {
		t.Fatal(err)
	}
	if op, err := l.AskFailover(l.Service, "beta"); err != nil || op == nil {
		t.Errorf("after the confirmation: %+v, %v", op, err)
	}
}

// A person's confirmation replaces the wait. It is void once the node is reachable again.
func TestFence(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	l.Replicas.EndSession(l.Alpha)
	if _, err := l.Fence(l.Ctx, l.Alpha.ID, api.Fenced{Confirmed: true}); err != nil {
		t.Fatal(err)
	}
	l.RestartAgent(l.Alpha, "alpha")
	l.Replicas.EndSession(l.Alpha)
	_, err := l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrPending)
	if _, err := l.Fence(l.Ctx, l.Alpha.ID, api.Fenced{Confirmed: true}); err != nil {
		t.Fatal(err)
	}
	op, err := l.AskFailover(l.Service, "beta")
	if err != nil || !strings.Contains(op.Loss.Reason, "drover node fence alpha") {
		t.Fatalf("%+v, %v", op, err)
	}
	l.Beta.MustCommit(*op)
}

// A person continues a volume without its home, and that fails. The volume keeps its epoch, because its home may have
// it open where control does not hear of it. The volume continues when the home is reachable again, even though a
// person had confirmed that it would not be.
func TestI1PromotionByWordThatIsRefused(t *testing.T) {
	for name, back := range map[string]bool{"the home is back": true, "its copy does not open": false} {
		l := controltest.NewLostHome(t, 1)
		l.Replicas.EndSession(l.Alpha)
		req := controltest.Move("db", "beta")
		req.Force, req.Fenced = true, "alpha"
		op := *l.MustSubmit(req).Operation
		if lease := l.MustVolume("db").Lease; lease.State != dataset.LeaseMoving {
			t.Errorf("%s: a returning home must not open it again: %+v", name, lease)
		}
		failed := op
		failed.Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrInUse, "open on node alpha"))
		if back {
			l.RestartAgent(l.Alpha, "alpha")
			_, err := l.Commit(l.Ctx, l.Beta.ID, l.Beta.ReportOf(op))
			controltest.Refused(t, err, dataset.ErrConflict, "node alpha, is reachable again")
			failed.Problem = dataset.ProblemOf(err)
		}
		l.Beta.MustCommit(failed)
		now := l.MustVolume("db")
		if now.Home != l.Alpha.ID || now.Epoch != 1 || now.Move != uuid.Nil || now.Lease.Epoch != 1 || now.Lease.State != dataset.LeaseHeld {
			t.Errorf("%s: %+v, %+v", name, now.Dataset, now.Lease)
		}
	}
}

// No node gets a first copy while the home is silent: the home may continue with promises of the nodes with copies,
// and would not know that it must ask this node as well.
func TestI1NoNewReplicaOfALostHome(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	l.Control.NewAgent("delta").ReportGuard()
	enough := errors.New("seen")
	adds := func() (short, added bool) {
		t.Helper()
		_, err := l.Ledger.Update(l.Ctx, func(x *record.Tx) error {
			d, err := x.Dataset(l.Dataset.ID)
			if err != nil {
				return err
			}
			why, err := l.CopyKeeper.AddReplicas(x, d, nil, 1)
			short, added = why != nil, len(x.Writes()) > 0
			return errors.Join(err, enough)
		})
		if !errors.Is(err, enough) {
			t.Fatal(err)
		}
		return short, added
	}
	if short, added := adds(); short || !added {
		t.Errorf("with its home reachable: too few %t, added %t", short, added)
	}
	l.Replicas.EndSession(l.Alpha)
	if short, added := adds(); !short || added {
		t.Errorf("with its home lost: too few %t, added %t", short, added)
	}
}
