package replication_test

import (
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// If the guard of a node does not answer at the moment when a volume with failover auto is created, the node gets no
// replica then. It gets one when the guard answers again, without a change of the volume: a busy host can look like
// that now and then.
func TestReplicaIsAddedWhenGuardAnswers(t *testing.T) {
	t.Parallel()
	g := agenttest.NewBounded(t)
	follows := func() bool { // control would choose a node for a replica
		_, err := g.Service.Plan(t.Context(), g.A.Node(), api.Request{Kind: dataset.OpCreate, Volume: "probe@auto"})
		return err == nil
	}
	agenttest.Await(t, follows)
	var once sync.Once
	g.A.Fuse.Set(-1, false, func(act string) {
		if act == "commit" {
			once.Do(func() {
				g.GuardB.Stop()
				agenttest.Await(t, func() bool { return !follows() })
			})
		}
	})
	agenttest.Await(t, func() bool { return g.A.Create(t.Context(), "db@auto", nil) == nil })
	d, _ := g.A.Cache.Volume("db")
	time.Sleep(2 * agenttest.BoundSession / 5) // one round of the background work, which nothing reports
	if v := g.Recorded("db"); len(v.Copies) > 0 {
		t.Fatalf("copies: %v", v.Copies)
	}
	g.GuardB.Start()
	agenttest.Await(t, func() bool { _, kept := g.B.Replicas.Copy(d.ID); return kept })
}
