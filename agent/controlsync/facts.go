package controlsync

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/facts"
)

// Facts reports the properties of this host to control: memory, load, engine, backends and pools. Report is called by
// one goroutine at a time; ReportAgain is safe for concurrent use.
type Facts struct {
	*Sync
	fixed   *dataset.Facts // the facts that do not change; nil until they are read
	load    facts.Average
	problem string // why the last look failed, so that each reason is logged once

	reported dataset.Facts // as recorded by control
	next     time.Duration // the earliest time of the next report, by the steady clock
	again    atomic.Bool   // control may lack what was reported
}

// factsEvery is the minimum time between two reports of changed facts to control.
const factsEvery = time.Minute

// Engine describes the engine of this host, as far as it is known.
type Engine struct {
	Version string // "" if it is not known
	Swarm   string // its ID in its Swarm, or "" if it is in none
}

// ReportAgain makes the next Report send all facts, because control may have another store that lacks them.
func (r *Facts) ReportAgain() { r.again.Store(true) }

// Report reads the load and, once a minute, sends all facts to control if they differ from those that control has
// recorded. dataset.Facts.Differ decides which differences count.
func (r *Facts) Report(ctx context.Context) {
	f, err := r.readHost()
	if err != nil {
		if why := err.Error(); why != r.problem {
			r.problem = why
			r.Log.WithError(err).Warn("cannot read the facts of this host: placement uses old ones")
		}
		return
	}
	r.problem = ""
	now := r.Clock.Steady()
	if r.again.Swap(false) {
		r.reported, r.next = dataset.Facts{}, 0
	}
	if now < r.next {
		return
	}
	r.addAgentFacts(ctx, &f)
	if r.reported.Differ(f) {
		on, err := r.Control.Facts(ctx, r.NodeID, api.FactsReport{Incarnation: r.Incarnation, Facts: f})
		if err != nil {
			return // Follower logs that control is unreachable
		}
		r.reported = on
	}
	r.next = now + factsEvery
}

func (r *Facts) readHost() (f dataset.Facts, err error) {
	if r.fixed == nil {
		if f, err = r.Source.ReadStatic(); err != nil {
			return f, err
		}
		r.fixed = &f
	}
	f = *r.fixed
	if err := r.Source.ReadDynamic(&f); err != nil {
		return f, err
	}
	f.Load10 = r.load.Add(r.Clock.Steady(), f.Load1, f.Load10)
	return f, nil
}

// addAgentFacts adds what the agent itself knows.
func (r *Facts) addAgentFacts(ctx context.Context, f *dataset.Facts) {
	f.Node = r.NodeID
	if r.Engine != nil {
		e := r.Engine()
		f.Engine, f.Swarm = e.Version, e.Swarm
	}
	f.Backends = []string{}
	for _, k := range r.Backends.Kinds() {
		if k.Available(ctx) == nil {
			f.Backends = append(f.Backends, k.Name())
		}
	}
	slices.Sort(f.Backends)
	f.Pools = []dataset.PoolFacts{}
	status := r.Pools.Status(ctx)
	for _, p := range r.Pools.Records() {
		i := slices.IndexFunc(status, func(st dataset.PoolStatus) bool { return st.ID == p.ID })
		if i < 0 {
			continue // made meanwhile
		}
		st := status[i]
		f.Pools = append(f.Pools, dataset.PoolFacts{
			ID:      p.ID,
			Name:    p.Name,
			Backend: p.Backend,
			Online:  st.Online,
			Size:    st.Size,
			Free:    st.Free,
		})
	}
}
