package control

import (
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A copy that is older than the profile allows does not take over by itself, nor one of
// which nobody knows how old it is: by the home's clock, whatever the others show.
func TestFailoverFromAnOldCopy(t *testing.T) {
	l := newLost(t, 1)
	beats := func(clock time.Time) {
		t.Helper()
		if err := l.Heartbeat(t.Context(), l.a.id, api.Heartbeat{Incarnation: l.a.incarnation, Clock: clock}); err != nil {
			t.Fatal(err)
		}
	}
	most := time.Duration(l.d.Profile.Failover.MaxLoss)
	late := someday.Add(-5 * time.Second).Add(most) // what beta and gamma have is of five seconds ago
	beats(late.Add(time.Second))
	l.x.dies(l.a)
	if err := l.LookForAway(l.ctx); err != nil {
		t.Fatal(err)
	}
	l.passes(l.Limits.Session, l.b, l.c)
	_, err := l.asks(l.Service, "beta")
	refused(t, err, dataset.ErrOffline, "nothing takes over by itself: the copy on node beta is 1m1s old, and max_loss of profile auto is 1m0s", "drover volume move db beta --force --fenced alpha")
	l.c.has(l.d, someday.Add(-10*time.Second), late.Add(time.Hour)) // its home's clock was set back since
	_, err = l.asks(l.Service, "beta")
	refused(t, err, dataset.ErrOffline, "on node gamma is, as the clock of the home was set")
	l.c.has(l.d, someday.Add(-10*time.Second), late) // as new, and nothing was written since
	op, err := l.asks(l.Service, "beta")
	if err != nil || op.Node != l.c.id {
		t.Fatalf("%+v, %v", op, err)
	}
	if _, err := l.CancelOperation(l.ctx, op.ID.String()); err != nil {
		t.Fatal(err)
	}
	for _, a := range []*agent{l.b, l.c} { // of an agent that does not say it
		a.has(l.d, someday.Add(-time.Second), time.Time{})
	}
	_, err = l.asks(l.Service, "beta")
	refused(t, err, dataset.ErrOffline, "it is not known how old the copy on node beta is")
}

// A home that is cut off from control alone goes on, and so do its replicas: one that is newer
// than what control heard of the home takes over. One that is newer than that can be does not,
// however long after.
func TestFailoverFromAHomeThatWasCutOff(t *testing.T) {
	cut := 5 * time.Minute
	for _, c := range []struct {
		name string
		off  time.Duration // the copy's time, from that of the home as it should be
		late time.Duration // from the end of the home to the mount
		take bool
	}{
		{"as new", 0, 0, true},
		{"as new, and mounted later", 0, time.Hour, true},
		{"set within a heartbeat", 9 * time.Second, 0, true},
		{"set back after the copy", 11 * time.Second, 0, false},
		{"set back after the copy, and mounted later", 11 * time.Second, time.Hour, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLost(t, 1)
			l.a.guarded()
			l.x.dies(l.a)
			if err := l.LookForAway(l.ctx); err != nil {
				t.Fatal(err)
			}
			l.passes(cut, l.b, l.c)
			l.c.has(l.d, l.clock.Now(), l.clock.Now().Add(c.off))
			l.passes(c.late, l.b, l.c)
			had, _ := l.Reports.Copy(l.c.id, l.d.ID)
			again := api.Heartbeat{Incarnation: l.c.incarnation, Guard: true, Copies: []dataset.Copy{had}}
			if err := l.Heartbeat(t.Context(), l.c.id, again); err != nil {
				t.Fatal(err)
			}
			op, err := l.asks(l.Service, "beta")
			if !c.take {
				refused(t, err, dataset.ErrOffline, "on node gamma is, as the clock of the home was set")
			} else if err != nil || op.Node != l.c.id {
				t.Errorf("%+v, %v", op, err)
			}
		})
	}
}

// A home whose agent said that it lives, and no more what its clock says, may have written
// until it was lost: how old a copy is, is not known then, however new it is by that clock.
func TestFailoverFromAHomeThatFellSilent(t *testing.T) {
	const unknown = "it is not known how old the copy on node gamma is, as its home had not told its clock for more than 1m0s when it was lost"
	for _, c := range []struct {
		name   string
		silent time.Duration // that it renews without a word to the service that finds it lost
		heard  time.Duration // of that, that another service hears it
		other  bool          // which is asked
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
			l := newLost(t, 2)
			first, second := l.x.list[0], l.x.list[1]
			l.a.guarded()
			half := c.silent / 2
			l.passes(half, l.a, l.b, l.c)
			l.c.has(l.d, l.clock.Now(), l.clock.Now())
			had, _ := first.Reports.Copy(l.c.id, l.d.ID)
			l.passes(c.heard-half, l.a, l.b, l.c)
			for node, h := range map[*agent]api.Heartbeat{l.a: {}, l.b: {}, l.c: {Copies: []dataset.Copy{had}}} {
				h.Incarnation, h.Guard, h.Clock = node.incarnation, true, l.clock.Now()
				if err := second.Members.Heartbeat(l.ctx, node.id, h); err != nil {
					t.Fatal(err)
				}
			}
			l.passes(min(half, c.silent-c.heard), l.a, l.b, l.c)
			l.x.dies(l.a)
			for _, s := range l.x.list {
				if err := s.Members.LookForAway(l.ctx); err != nil {
					t.Fatal(err)
				}
			}
			l.passes(l.Limits.Session, l.b, l.c)
			s := first
			if c.other {
				s = second
			}
			op, err := l.asks(s, "beta")
			if c.want != "" {
				refused(t, err, dataset.ErrOffline, c.want, "--force --fenced alpha")
			} else if err != nil || op == nil || op.Node != l.c.id {
				t.Errorf("%+v, %v", op, err)
			}
		})
	}
}
