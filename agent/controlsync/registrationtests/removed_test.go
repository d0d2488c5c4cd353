package registration_test

import (
	"errors"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// I1: once control has said that this node was removed, the node mounts nothing for new containers, because its volumes
// may be opened elsewhere. A restart while control does not answer changes nothing. Containers that run keep theirs.
func TestI1RemovedNodeMountsNothing(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.NewVolume("idle")
	r.MustMount("db", "before")
	how := api.NodeRemoval{Force: true}
	if _, err := r.Cluster.Service.RemoveNode(t.Context(), r.NodeID.String(), how); err != nil {
		t.Fatal(err)
	}
	r.Link.Cut()
	r.Link.Mend() // the agent registers again
	agenttest.Await(t, func() bool {
		r.FakeClock.Advance(time.Second)
		return r.Registration.CheckMember() != nil
	})
	refused := func(when string) {
		t.Helper()
		for _, volume := range []string{"db", "idle"} {
			if _, err := r.Mount(t.Context(), volume, "new"); !errors.Is(err, dataset.ErrRemoved) {
				t.Errorf("%s: mount of %s: %v, want that the node was removed", when, volume, err)
			}
		}
		r.WantUses(d, "before")
	}
	refused("before a restart")
	r.Link.Cut()
	r.Restart()
	refused("after a restart without control")
	r.MustUnmount("db", "before")
}
