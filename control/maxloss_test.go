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
	if err := l.lookForAway(l.ctx); err != nil {
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
			if err := l.lookForAway(l.ctx); err != nil {
				t.Fatal(err)
			}
			l.passes(cut, l.b, l.c)
			l.c.has(l.d, l.clock.Now(), l.clock.Now().Add(c.off))
			l.passes(c.late, l.b, l.c)
			had, _ := l.seen.copy(l.c.id, l.d.ID)
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
