package housekeeping_test

import (
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// An agent that registers again keeps its session. A steady cluster writes nothing while volumes are in use, replicas
// are refreshed and copies are kept, once no timer is pending.
func TestSteadyClusterWritesNothing(t *testing.T) {
	x := controltest.NewReplicas(t, 2)
	e := x.On(x.Services[0])
	e.AddReplicaProfile(1)
	a, b := e.NewAgent("alpha"), e.NewAgent("beta")
	for range 2 {
		b.MustRegister("beta")
	}
	d := a.MustCreate("db@safe")
	houses := []*housekeeping.Memory{x.Services[0].Housekeeper.NewMemory(), x.Services[1].Housekeeper.NewMemory()}
	steps := func(n int) {
		for range n {
			now, used := x.Clock.Now(), dataset.Size(x.Clock.Steady())
			for i, s := range x.Services {
				x.TakePart(s)
				if mine, err := s.Members.AcquireHousekeeping(t.Context()); err != nil {
					t.Fatal(err)
				} else if mine {
					s.Housekeeper.Round(record.AsHousekeeper(t.Context()), houses[i], now)
				}
				tells := func(g *controltest.Agent, h api.Heartbeat) {
					h.Incarnation = g.Incarnation
					in := api.Generations{Incarnation: g.Incarnation, Transient: true, Pools: []api.Generation{{Pool: g.LocalPools[0].ID, Generation: uint64(used)}}}
					_, err := s.Generations(t.Context(), g.ID, in)
					_, rerr := s.Members.Renew(t.Context(), g.ID, g.Incarnation)
					if err := errors.Join(err, rerr, s.Members.Heartbeat(t.Context(), g.ID, h)); err != nil {
						t.Fatal(err)
					}
				}
				tells(a, api.Heartbeat{Datasets: []dataset.DatasetStatus{{ID: d.ID, Mounted: true, Used: new(used)}}})
				tells(b, api.Heartbeat{Copies: []dataset.Copy{{Dataset: d.ID, Node: b.ID, Epoch: d.Epoch, Snapshot: d.ID, VerifiedAt: now, VerifiedAtHome: now}}})
			}
			x.Clock.Advance(5 * time.Second)
		}
	}
	steps(3)
	b.ReportCopyTaken(d, x.Clock.Now())
	steps(3)
	steps(int((housekeeping.OperationRetention + housekeeping.ForgetInterval + record.MarkInterval) / (5 * time.Second)))
	onRecord := func() map[string]uint64 {
		out := map[string]uint64{}
		for _, e := range x.Save() {
			out[e.Key] = e.Index
		}
		return out
	}
	before, was := x.Txns(), onRecord()
	steps(3 * 3600 / 5)
	if now := onRecord(); !maps.Equal(was, now) || x.Txns() != before {
		t.Errorf("%d transactions: on record was %v and is %v", x.Txns()-before, was, now)
	}
}
