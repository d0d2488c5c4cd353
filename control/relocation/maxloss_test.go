package relocation_test

import (
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// A copy that is older than the profile allows does not take over automatically, nor does a copy of unknown age. The
// age is measured by the home's clock, whatever the other clocks show.
func TestFailoverFromAnOldCopy(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	beats := func(clock time.Time) {
		t.Helper()
		if err := l.Heartbeat(t.Context(), l.Alpha.ID, api.Heartbeat{Incarnation: l.Alpha.Incarnation, GuardRunning: true, NodeTime: clock}); err != nil {
			t.Fatal(err)
		}
	}
	most := time.Duration(l.Dataset.Profile.Failover.MaxLoss)
	late := controltest.Start.Add(-5 * time.Second).Add(most) // the copies of beta and gamma are five seconds old
	beats(late.Add(time.Second))
	l.Replicas.EndSession(l.Alpha)
	if err := l.RecordUnreachable(l.Ctx); err != nil {
		t.Fatal(err)
	}
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
	if _, err := l.CancelOperation(l.Ctx, op.ID.String()); err != nil {
		t.Fatal(err)
	}
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
			if err := l.RecordUnreachable(l.Ctx); err != nil {
				t.Fatal(err)
			}
			l.Wait(cut, l.Beta, l.Gamma)
			l.Gamma.ReportCurrentCopy(l.Dataset, l.Clock.Now(), l.Clock.Now().Add(c.off))
			l.Wait(c.late, l.Beta, l.Gamma)
			had, _ := l.Reports.Copy(l.Gamma.ID, l.Dataset.ID)
			again := api.Heartbeat{Incarnation: l.Gamma.Incarnation, GuardRunning: true, Copies: []dataset.Copy{had}}
			if err := l.Heartbeat(t.Context(), l.Gamma.ID, again); err != nil {
				t.Fatal(err)
			}
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
				if err := second.Members.Heartbeat(l.Ctx, node.ID, h); err != nil {
					t.Fatal(err)
				}
			}
			l.Wait(min(half, c.silent-c.heard), l.Alpha, l.Beta, l.Gamma)
			l.Replicas.EndSession(l.Alpha)
			for _, s := range l.Replicas.Services {
				if err := s.Members.RecordUnreachable(l.Ctx); err != nil {
					t.Fatal(err)
				}
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
		if err := l.Heartbeat(l.Ctx, l.Alpha.ID, h); err != nil {
			t.Fatal(err)
		}
	}
	verified := l.Clock.Now().Add(ahead)
	beat(verified)
	l.Beta.ReportCurrentCopy(l.Dataset, verified, verified)
	l.Gamma.ReportCurrentCopy(l.Dataset, verified, verified)
	l.Wait(ahead+30*time.Second, l.Alpha, l.Beta, l.Gamma)
	beat(l.Clock.Now())
	l.Replicas.EndSession(l.Alpha)
	if err := l.RecordUnreachable(l.Ctx); err != nil {
		t.Fatal(err)
	}
	l.Wait(l.Timing.Session, l.Beta, l.Gamma)
	_, err := l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrOffline, "because the clock of the home was set")
}
