package control

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// A target that is too full for what a volume takes, by what the agents say, is refused with
// both.
func TestMoveToFull(t *testing.T) {
	e := newEnv(t)
	a, b := e.agent("alpha"), e.agent("beta")
	d := a.create("db@gold")
	say := func(of *agent, h api.Heartbeat) {
		h.Incarnation = of.incarnation
		if err := e.Heartbeat(e.ctx, of.id, h); err != nil {
			t.Fatal(err)
		}
	}
	say(a, api.Heartbeat{Datasets: []dataset.DatasetStatus{{ID: d.ID, Used: 30 * dataset.GiB}}})
	say(b, api.Heartbeat{Pools: []dataset.PoolStatus{{ID: b.pools[0].ID, Online: true, Size: 100 * dataset.GiB, Free: 20 * dataset.GiB}}})
	before := e.dump()
	_, err := e.Submit(e.ctx, moveTo("db", "beta"))
	refused(t, err, dataset.ErrNoSpace, "volume db", "pool fast of node beta has 20", "takes 30")
	if diff := cmp.Diff(before, e.dump()); diff != "" {
		t.Error(diff)
	}
}
