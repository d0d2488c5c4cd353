package placement_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// A target without room for what a volume uses, as agents report it, is refused. The error has both sizes.
func TestMoveToFull(t *testing.T) {
	e := controltest.New(t)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	d := a.MustCreate("db@gold")
	say := func(of *controltest.Agent, h api.Heartbeat) {
		h.Incarnation = of.Incarnation
		if err := e.Heartbeat(e.Ctx, of.ID, h); err != nil {
			t.Fatal(err)
		}
	}
	say(a, api.Heartbeat{Datasets: []dataset.DatasetStatus{{ID: d.ID, InPool: new(30 * dataset.GiB)}}})
	say(b, api.Heartbeat{Pools: []dataset.PoolStatus{{ID: b.LocalPools[0].ID, Online: true, Size: 100 * dataset.GiB, Free: 20 * dataset.GiB}}})
	before := e.Dump()
	_, err := e.Submit(e.Ctx, controltest.Move("db", "beta"))
	controltest.Refused(t, err, dataset.ErrNoSpace, "volume db", "pool fast of node beta has 20", "needs 30")
	if diff := cmp.Diff(before, e.Dump()); diff != "" {
		t.Error(diff)
	}
}
