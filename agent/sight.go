package agent

import (
	"context"

	"github.com/droverhq/drover/control/api"
)

// SeenPools returns the pools of this node as they are now.
func (a *Agent) SeenPools(ctx context.Context) []api.Pool {
	names := map[string]api.Pool{}
	for _, p := range a.pools.all() {
		names[p.ID.String()] = api.Pool{Pool: p.Pool, NodeName: a.NodeName}
	}
	var out []api.Pool
	for _, st := range a.pools.status(ctx) {
		if p, ok := names[st.ID.String()]; ok {
			p.Status = &st
			out = append(out, p)
		}
	}
	return out
}

// SeenVolumes returns the volumes that are in use on this node, as they are now.
func (a *Agent) SeenVolumes(ctx context.Context) []api.Volume {
	var out []api.Volume
	for _, id := range a.mountedIDs() {
		d, ok := a.cache.dataset(id)
		if !ok {
			continue
		}
		st := a.datasetStatus(ctx, d)
		out = append(out, api.Volume{Dataset: d, Node: a.NodeName, Status: &st})
	}
	return out
}
