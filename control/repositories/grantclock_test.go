package repositories_test

import (
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
)

// On a single host, the removal of a grant raises the store clock, and the agent learns of it at once. Nothing else
// shows the agent that a removal is missing in a store that was restored from a backup.
func TestRemovedGrantRaisesClockOfSingleHost(t *testing.T) {
	for name, remove := range map[string]func(*controltest.Control) error{
		"grant": func(e *controltest.Control) error { return e.RemoveGrant(e.Ctx, "ann") },
		"grant with a repository": func(e *controltest.Control) error {
			return e.RemoveRepository(e.Ctx, "team", true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := controltest.New(t)
			a := e.NewAgent("alpha")
			mustAdd(e, newRepository("team", "/srv/team"))
			if _, err := e.AddGrant(e.Ctx, newGrant("ann", "team")); err != nil {
				t.Fatal(err)
			}
			first := a.MustSync(0)
			if first.StoreClock != 1 {
				t.Errorf("the store clock is %d, want 1", first.StoreClock)
			}
			woken := make(chan api.Sync, 1)
			go func() {
				s, err := e.Sync(e.Ctx, a.ID, first.Revision, time.Hour)
				if err != nil {
					t.Errorf("sync: %v", err)
				}
				woken <- s
			}()
			if err := remove(e); err != nil {
				t.Fatal(err)
			}
			select {
			case s := <-woken:
				if s.StoreClock != 2 || s.Full {
					t.Errorf("the agent got the store clock %d, want 2, with everything: %t", s.StoreClock, s.Full)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("the agent is not notified")
			}
			if clock := a.MustSync(0).StoreClock; clock != 2 {
				t.Errorf("the store clock is %d, want 2", clock)
			}
			e.CheckInvariants()
		})
	}
}
