package control

import (
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/ledger"
	"github.com/droverhq/drover/control/uptime"
	"github.com/droverhq/drover/dataset"
)

// Registering again is one session, and a steady cluster writes nothing, with volumes in use,
// replicas that are refreshed and copies that stay, once nothing waits for its time to be over.
func TestSteadyClusterWritesNothing(t *testing.T) {
	x := newShared(t, 2)
	e := x.env(x.list[0])
	e.replicated(1)
	a, b := e.agent("alpha"), e.agent("beta")
	for range 2 {
		b.register("beta")
	}
	d := a.create("db@safe")
	houses := []*housekeeping.Memory{x.list[0].Housekeeper.NewMemory(), x.list[1].Housekeeper.NewMemory()}
	steps := func(n int) {
		for range n {
			now, used := x.clock.Now(), dataset.Size(x.clock.Steady())
			for i, s := range x.list {
				x.stand(s)
				if mine, err := s.Members.TakeHouse(t.Context()); err != nil {
					t.Fatal(err)
				} else if mine {
					s.Housekeeper.Round(ledger.AsHousekeeper(t.Context()), houses[i], now)
				}
				tells := func(g *agent, h api.Heartbeat) {
					h.Incarnation = g.incarnation
					in := api.Generations{Incarnation: g.incarnation, Passing: true, Pools: []api.Generation{{Pool: g.pools[0].ID, Generation: uint64(used)}}}
					_, err := s.Generations(t.Context(), g.id, in)
					_, rerr := s.Members.Renew(t.Context(), g.id, g.incarnation)
					if err := errors.Join(err, rerr, s.Members.Heartbeat(t.Context(), g.id, h)); err != nil {
						t.Fatal(err)
					}
				}
				tells(a, api.Heartbeat{Datasets: []dataset.DatasetStatus{{ID: d.ID, Mounted: true, Used: used}}})
				tells(b, api.Heartbeat{Copies: []dataset.Copy{{Dataset: d.ID, Node: b.id, Epoch: d.Epoch, Snapshot: d.ID, Checked: now, Current: now}}})
			}
			x.clock.Advance(5 * time.Second)
		}
	}
	steps(3)
	b.hasCopy(d, x.clock.Now())
	steps(3)
	steps(int((housekeeping.OperationKept + housekeeping.ForgetEvery + uptime.MarkEvery) / (5 * time.Second)))
	onRecord := func() map[string]uint64 {
		out := map[string]uint64{}
		for _, e := range x.save() {
			out[e.Key] = e.Index
		}
		return out
	}
	before, was := x.count(), onRecord()
	steps(3 * 3600 / 5)
	if now := onRecord(); !maps.Equal(was, now) || x.count() != before {
		t.Errorf("%d transactions: on record was %v and is %v", x.count()-before, was, now)
	}
}
