package agent

import (
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A node whose guard does not answer at the moment in which a volume with failover auto is made gets
// no replica then. It gets one when the guard answers again, without a change of the volume: a busy
// host is seen so now and then.
func TestReplicaComesWithTheGuard(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	follows := func() bool { // control would have a node for a replica
		_, err := g.svc.Plan(t.Context(), g.a.Node(), api.Request{Kind: dataset.OpCreate, Volume: "probe@auto"})
		return err == nil
	}
	await(t, follows)
	var once sync.Once
	g.a.fuse.set(-1, false, func(act string) {
		if act == "commit" {
			once.Do(func() {
				g.wb.down()
				await(t, func() bool { return !follows() })
			})
		}
	})
	await(t, func() bool { return g.a.Create(t.Context(), "db@auto", nil) == nil })
	d, _ := g.a.Cache.Volume("db")
	time.Sleep(2 * boundSession / 5) // a round of the background work, which says nothing
	if v := g.record("db"); len(v.Copies) > 0 {
		t.Fatalf("copies: %v", v.Copies)
	}
	g.wb.up()
	await(t, func() bool { _, kept := g.b.replicas.Copy(d.ID); return kept })
}
