package agent

import (
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// missing keeps in mind that a pool of drover.yaml could be neither found nor made. It
// is shown as offline, and the other pools serve. Nothing tries again before the next
// start: who mends its disk may not be done yet.
func (p *pools) missing(c PoolConfig, why error) {
	p.a.Log.WithFields(map[string]any{"pool": c.Name, "backend": c.Backend, "error": why}).Error("pool of drover.yaml is offline: it could not be made")
	p.unmade = append(p.unmade, api.Pool{
		Pool: dataset.Pool{Name: c.Name, Node: p.a.node, Backend: c.Backend, Path: c.Path, Reach: dataset.ReachNode},
		Status: &dataset.PoolStatus{
			Reason: why.Error() + " (it could not be made; restart drover when that is mended)",
		},
	})
}

// unclaimed refuses the name of a pool that drover.yaml has otherwise.
func (p *pools) unclaimed(name string) error {
	for _, u := range p.unmade {
		if u.Name == name {
			return dataset.Errorf(dataset.ErrExists, "pool %s stands in drover.yaml and is offline: %s", name, u.Status.Reason)
		}
	}
	return nil
}

func (a *Agent) checkUnmade(r *report) {
	for _, u := range a.pools.unmade {
		r.add(levelError, "pool "+u.Name, "", "is offline: %s", u.Status.Reason)
	}
}
