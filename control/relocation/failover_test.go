package relocation_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/guard/hand"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/require"
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
	e.MustRefuse(controltest.Move("db", "beta"), dataset.ErrUnsupported, "its node has no guard")
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
	l.OK(l.Events(t.Context(), 0, false, func(ev api.Event) error {
		if ev.Volume == "db" {
			told = append(told, string(ev.Type)+": "+ev.Detail)
		}
		return nil
	}))
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
			l.OK(l.RecordUnreachable(l.Ctx))
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
	l.OK(l.Heartbeat(l.Ctx, l.Alpha.ID, h))
	l.Replicas.EndSession(l.Alpha)
	l.OK(l.RecordUnreachable(l.Ctx))
	l.Wait(l.Timing.Session, l.Beta, l.Gamma)
	_, err := l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrOffline, "the guard of node alpha did not respond",
		"drover volume move db beta --force --fenced alpha")
	l.OK(l.Fence(l.Ctx, l.Alpha.ID, api.Fenced{Confirmed: true}))
	if op, err := l.AskFailover(l.Service, "beta"); err != nil || op == nil {
		t.Errorf("after the confirmation: %+v, %v", op, err)
	}
}

// A person's confirmation replaces the wait. It is void once the node is reachable again.
func TestFence(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	l.Replicas.EndSession(l.Alpha)
	l.OK(l.Fence(l.Ctx, l.Alpha.ID, api.Fenced{Confirmed: true}))
	l.RestartAgent(l.Alpha, "alpha")
	l.Replicas.EndSession(l.Alpha)
	_, err := l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrPending)
	l.OK(l.Fence(l.Ctx, l.Alpha.ID, api.Fenced{Confirmed: true}))
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
		require.ErrorIs(t, err, enough)
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

// A copy that is older than the profile allows does not take over automatically, nor does a copy of unknown age. The
// age is measured by the home's clock, whatever the other clocks show.
func TestFailoverFromAnOldCopy(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	beats := func(clock time.Time) {
		t.Helper()
		l.OK(l.Heartbeat(t.Context(), l.Alpha.ID, api.Heartbeat{Incarnation: l.Alpha.Incarnation, GuardRunning: true, NodeTime: clock}))
	}
	most := time.Duration(l.Dataset.Profile.Failover.MaxLoss)
	late := controltest.Start.Add(-5 * time.Second).Add(most) // the copies of beta and gamma are five seconds old
	beats(late.Add(time.Second))
	l.Replicas.EndSession(l.Alpha)
	l.OK(l.RecordUnreachable(l.Ctx))
	l.Wait(l.Timing.Session, l.Beta, l.Gamma)
	_, err := l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrOffline, "no copy takes over automatically: the copy on node beta is 1m1s old, and max_loss of profile auto is 1m0s", "drover volume move db beta --force --fenced alpha")
	l.Gamma.ReportCurrentCopy(l.Dataset, controltest.Start.Add(-10*time.Second), late.Add(time.Hour)) // its home's clock was set back since
	_, err = l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrOffline, "on node gamma is, because the clock of the home was set")
	l.Gamma.ReportCurrentCopy(l.Dataset, controltest.Start.Add(-10*time.Second), late) // as new, because nothing was written since
	op, err := l.AskFailover(l.Service, "beta")
	if err != nil || op.Node != l.Gamma.ID {
		t.Fatalf("%+v, %v", op, err)
	}
	l.OK(l.CancelOperation(l.Ctx, op.ID.String()))
	for _, a := range []*controltest.Agent{l.Beta, l.Gamma} { // from an agent that does not report it
		a.ReportCurrentCopy(l.Dataset, controltest.Start.Add(-time.Second), time.Time{})
	}
	_, err = l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrOffline, "it is not known how old the copy on node beta is")
}

// A home that is cut off only from control continues to work, and so do its replicas. A copy that is newer than what
// control heard of the home takes over. A copy that is newer than possible does not, however long after.
func TestFailoverFromAHomeThatWasCutOff(t *testing.T) {
	cut := 5 * time.Minute
	for _, c := range []struct {
		name string
		off  time.Duration // the copy's time, relative to the time of the home as it should be
		late time.Duration // from the loss of the home to the mount
		take bool
	}{
		{"as new", 0, 0, true},
		{"as new, and mounted later", 0, time.Hour, true},
		{"set within a heartbeat", 9 * time.Second, 0, true},
		{"set back after the copy", 11 * time.Second, 0, false},
		{"set back after the copy, and mounted later", 11 * time.Second, time.Hour, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := controltest.NewLostHome(t, 1)
			l.Alpha.ReportGuard()
			l.Replicas.EndSession(l.Alpha)
			l.OK(l.RecordUnreachable(l.Ctx))
			l.Wait(cut, l.Beta, l.Gamma)
			l.Gamma.ReportCurrentCopy(l.Dataset, l.Clock.Now(), l.Clock.Now().Add(c.off))
			l.Wait(c.late, l.Beta, l.Gamma)
			had, _ := l.Reports.Copy(l.Gamma.ID, l.Dataset.ID)
			again := api.Heartbeat{Incarnation: l.Gamma.Incarnation, GuardRunning: true, Copies: []dataset.Copy{had}}
			l.OK(l.Heartbeat(t.Context(), l.Gamma.ID, again))
			op, err := l.AskFailover(l.Service, "beta")
			if !c.take {
				controltest.Refused(t, err, dataset.ErrOffline, "on node gamma is, because the clock of the home was set")
			} else if err != nil || op.Node != l.Gamma.ID {
				t.Errorf("%+v, %v", op, err)
			}
		})
	}
}

// The agent of a home renewed its session, but did not report its clock any more. The home may have written until it
// was lost, so the age of a copy is unknown, however new it is by that clock.
func TestFailoverFromAHomeThatFellSilent(t *testing.T) {
	const unknown = "it is not known how old the copy on node gamma is, because its home had not reported its clock for more than 1m0s when it was lost"
	for _, c := range []struct {
		name   string
		silent time.Duration // how long it renews without a report to the service that finds it lost
		heard  time.Duration // for how much of that another service gets its reports
		other  bool          // the other service is asked for the failover
		want   string        // empty: the copy takes over
	}{
		{"no longer than it takes", time.Minute, 0, false, ""},
		{"longer", time.Minute + 10*time.Second, 0, false, unknown},
		{"for an hour", time.Hour, 0, false, unknown},
		{"and heard to the end by who is asked", time.Hour, time.Hour, true, "the copy on node gamma is 30m0s old"},
		{"and heard to the end by who is not asked", time.Hour, time.Hour, false, unknown},
		{"and heard for half of it by who is asked", time.Hour, time.Hour / 2, true, unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := controltest.NewLostHome(t, 2)
			first, second := l.Replicas.Services[0], l.Replicas.Services[1]
			l.Alpha.ReportGuard()
			half := c.silent / 2
			l.Wait(half, l.Alpha, l.Beta, l.Gamma)
			l.Gamma.ReportCurrentCopy(l.Dataset, l.Clock.Now(), l.Clock.Now())
			had, _ := first.Reports.Copy(l.Gamma.ID, l.Dataset.ID)
			l.Wait(c.heard-half, l.Alpha, l.Beta, l.Gamma)
			for node, h := range map[*controltest.Agent]api.Heartbeat{l.Alpha: {}, l.Beta: {}, l.Gamma: {Copies: []dataset.Copy{had}}} {
				h.Incarnation, h.GuardRunning, h.NodeTime = node.Incarnation, true, l.Clock.Now()
				l.OK(second.Members.Heartbeat(l.Ctx, node.ID, h))
			}
			l.Wait(min(half, c.silent-c.heard), l.Alpha, l.Beta, l.Gamma)
			l.Replicas.EndSession(l.Alpha)
			for _, s := range l.Replicas.Services {
				l.OK(s.Members.RecordUnreachable(l.Ctx))
			}
			l.Wait(l.Timing.Session, l.Beta, l.Gamma)
			s := first
			if c.other {
				s = second
			}
			op, err := l.AskFailover(s, "beta")
			if c.want != "" {
				controltest.Refused(t, err, dataset.ErrOffline, c.want, "--force --fenced alpha")
			} else if err != nil || op == nil || op.Node != l.Gamma.ID {
				t.Errorf("%+v, %v", op, err)
			}
		})
	}
}

// The clock of the home was ahead when the copies were verified last, and was set right since. By that clock, the copies
// are newer than what the home reported last. They do not take over, because the home wrote for another hour.
func TestFailoverAfterTheClockOfTheHomeWasSetBack(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	const ahead = time.Hour
	beat := func(clock time.Time) {
		t.Helper()
		h := api.Heartbeat{Incarnation: l.Alpha.Incarnation, GuardRunning: true, NodeTime: clock}
		l.OK(l.Heartbeat(l.Ctx, l.Alpha.ID, h))
	}
	verified := l.Clock.Now().Add(ahead)
	beat(verified)
	l.Beta.ReportCurrentCopy(l.Dataset, verified, verified)
	l.Gamma.ReportCurrentCopy(l.Dataset, verified, verified)
	l.Wait(ahead+30*time.Second, l.Alpha, l.Beta, l.Gamma)
	beat(l.Clock.Now())
	l.Replicas.EndSession(l.Alpha)
	l.OK(l.RecordUnreachable(l.Ctx))
	l.Wait(l.Timing.Session, l.Beta, l.Gamma)
	_, err := l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrOffline, "because the clock of the home was set")
}

// The guard of a host in the simulation is the real one, with its table and its rules. It has no background loop: it
// checks what is due when it is called, which happens at each tick.

// sentry is a host's guard, as its agent uses it.
type sentry struct {
	*takeovers
	of    *taker
	guard *guard.Guard
	id    uuid.UUID
}

func (w *takeovers) sentry(n *taker, run string) *sentry {
	w.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	g, err := guard.New(w.Ctx, guard.Options{Run: run, Hand: obedient{}, Clock: guardClock{w.Clock}, Log: log, Version: "simulated"})
	require.NoError(w, err)
	return &sentry{takeovers: w, of: n, guard: g, id: w.Dataset.ID}
}

// has returns the guard's entry of the volume.
func (s *sentry) has() (guard.Entry, bool) {
	for _, e := range s.guard.Status().Datasets {
		return e, e.State != guard.StateSuperseded
	}
	return guard.Entry{}, false
}

// feeds tells the guard until when the volume may be written to, if it still may: it registers the volume, or thaws
// it, since the host that feeds the guard holds the lease of that epoch.
func (s *sentry) feeds() {
	s.Helper()
	e, there := s.has()
	if there && e.Epoch != s.of.epoch {
		s.gives()
		there = false
	}
	if s.of.deadline <= s.now() {
		return
	}
	until := s.of.deadline + guardStart
	var err error
	if there {
		_, err = s.guard.Thaw(s.Ctx, s.id, e.Epoch, until)
	} else {
		_, err = s.guard.Register(s.Ctx, guard.Registration{
			Dataset: s.id, Volume: "db", Epoch: s.of.epoch, Paths: []string{"/mnt/db"}, Own: true, Policy: guard.PolicyKill, Deadline: until,
		})
	}
	require.NoErrorf(s, err, "%s", s.of.name)
}

// gives supersedes the volume that is open, because it has continued at another node.
func (s *sentry) gives() {
	s.Helper()
	if e, there := s.has(); there {
		if _, err := s.guard.Supersede(s.Ctx, s.id, e.Epoch); err != nil {
			s.Fatalf("%s: %v", s.of.name, err)
		}
	}
}

// open reports whether something can write to the volume: until the guard fences it, and for as long as a fence may
// take after that.
func (s *sentry) open() bool {
	s.Helper()
	e, there := s.has()
	if !there {
		return false
	}
	_, err := s.guard.Check(s.Ctx, s.id, e.Epoch) // what is due is fenced from here on
	if err != nil && !errors.Is(err, dataset.ErrStale) {
		s.Fatalf("%s: %v", s.of.name, err)
	}
	return err == nil || s.now()+guardStart <= e.Deadline+s.Timing.Session*3/10
}

// guardClock is the simulation's time. It starts some time after the boot.
type guardClock struct{ *controltest.Clock }

const guardStart = time.Minute

func (c guardClock) Boottime() time.Duration { return c.Steady() + guardStart }

func (guardClock) NewAlarm() (guard.Alarm, error) { return nil, errors.New("nobody waits") }

// obedient carries out every request at once.
type obedient struct{}

func (obedient) Freeze(context.Context, hand.Target, time.Duration) hand.Outcome {
	return hand.Outcome{Done: true}
}

func (obedient) Stop(context.Context, hand.Target, time.Duration) hand.Outcome {
	return hand.Outcome{Done: true}
}

func (obedient) Kill(context.Context, hand.Target, time.Duration) hand.Outcome {
	return hand.Outcome{Done: true}
}

func (obedient) KillHolders(context.Context, hand.Target, time.Duration) hand.Outcome {
	return hand.Outcome{Done: true}
}

func (obedient) Condemn(context.Context, hand.Target, time.Duration) hand.Outcome {
	return hand.Outcome{Done: true}
}

func (obedient) Undo(context.Context, hand.Target) error { return nil }

func (obedient) Bind(context.Context, hand.Target) (mount.Filesystem, error) {
	return mount.Filesystem{Major: 7, Minor: 1, Root: "/"}, nil
}

func (obedient) Save(context.Context, uuid.UUID, json.RawMessage) error { return nil }

func (obedient) Load(context.Context) (map[uuid.UUID]json.RawMessage, error) {
	return map[uuid.UUID]json.RawMessage{}, nil
}
