package agent

import (
	"context"
	"os"
	"slices"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/facts"
)

// factsEvery is the minimum time between two reports of changed facts to control.
const factsEvery = time.Minute

// Engine is what is known of the engine of this host.
type Engine struct {
	Version string // "" if it is not known
	Swarm   string // its ID in its Swarm, or "" if it is in none
}

// hostFacts is what the agent reported of its host last. Only the heartbeat uses it, apart from the fields that
// Agent.mu guards.
type hostFacts struct {
	host  facts.Host
	fixed *dataset.Facts // nil: not read yet
	load  facts.Average
	on    dataset.Facts // as recorded by control; guarded by Agent.mu
	next  time.Duration // the next report is not before this time of the steady clock; guarded by Agent.mu
	joins int           // guarded by Agent.mu
	blind string        // why the last look failed, so that it is logged once
}

func newHostFacts(h facts.Host) hostFacts {
	if h.FS == nil {
		h = facts.Host{FS: os.DirFS("/"), Machine: facts.Machine}
	}
	return hostFacts{host: h}
}

// forgetFacts has the facts reported again, because control's store may be another one.
func (a *Agent) forgetFacts() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.facts.on, a.facts.next = dataset.Facts{}, 0
	a.facts.joins++
}

// tellFacts reads the load and, once a minute, reports to control what differs from its record.
func (a *Agent) tellFacts(ctx context.Context) {
	f, err := a.look()
	if err != nil {
		if why := err.Error(); why != a.facts.blind {
			a.facts.blind = why
			a.Log.WithError(err).Warn("facts of this host cannot be read: placement does not see what they are now")
		}
		return
	}
	a.facts.blind = ""
	now := a.Clock.Steady()
	a.mu.Lock()
	early, on, joins := now < a.facts.next, a.facts.on, a.facts.joins
	a.mu.Unlock()
	if early {
		return
	}
	a.addOwn(ctx, &f)
	if on.Differ(f) {
		if on, err = a.Control.Facts(ctx, a.NodeID, api.FactsReport{Incarnation: a.Incarnation, Facts: f}); err != nil {
			return // follow logs that control is unreachable
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if joins == a.facts.joins { // otherwise the report was to an earlier store
		a.facts.on, a.facts.next = on, now+factsEvery
	}
}

// look reads the host's files.
func (a *Agent) look() (f dataset.Facts, err error) {
	if a.facts.fixed == nil {
		if f, err = a.facts.host.Fixed(); err != nil {
			return f, err
		}
		a.facts.fixed = &f
	}
	f = *a.facts.fixed
	if err := a.facts.host.Moving(&f); err != nil {
		return f, err
	}
	f.Load10 = a.facts.load.Add(a.Clock.Steady(), f.Load1, f.Load10)
	return f, nil
}

// addOwn adds what the agent itself knows.
func (a *Agent) addOwn(ctx context.Context, f *dataset.Facts) {
	f.Node = a.NodeID
	if a.config.Engine != nil {
		e := a.config.Engine()
		f.Engine, f.Swarm = e.Version, e.Swarm
	}
	f.Backends = []string{}
	for _, k := range a.config.Backends.Kinds() {
		if k.Available(ctx) == nil {
			f.Backends = append(f.Backends, k.Name())
		}
	}
	slices.Sort(f.Backends)
	f.Pools = []dataset.PoolFacts{}
	status := a.pools.Status(ctx)
	for _, p := range a.pools.Records() {
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
