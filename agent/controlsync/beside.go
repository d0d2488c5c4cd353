package controlsync

import (
	"context"
	"maps"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
)

// revisionsBeside returns the revisions in the records beside the data of this node's datasets, if control's store
// belongs to this host only. The store, the agent's database and the pools may be on different disks. If the disk of
// the first two was restored from a backup, only the pools show it. A pool that does not answer in time is left out.
func (r *Holdings) revisionsBeside(ctx context.Context) map[uuid.UUID]host.Revision {
	out := map[uuid.UUID]host.Revision{}
	if !r.Solo {
		return out
	}
	for _, p := range r.Pools.All() {
		if p.Storage == nil || p.HangReason != "" {
			continue
		}
		found := map[uuid.UUID]host.Revision{}
		// Each call starts a job of its own, because it must not get the records that an earlier call has read.
		job := r.Jobs.Start("revisions/"+uuid.NewString(), func(ctx context.Context, _ *host.Job) error {
			entries, err := p.Storage.List(ctx)
			for _, e := range entries {
				if d := e.Record; d != nil && d.ID == e.ID && d.Home == r.NodeID && d.Pool == p.ID {
					found[e.ID] = host.Revision{Index: d.Written, Epoch: d.Epoch, Volume: d.Volume}
				}
			}
			return err
		})
		if pool.WaitFor(ctx, r.Clock, pool.StartPatience, host.Ends([]*host.Job{job})) {
			maps.Copy(out, found)
		}
	}
	return out
}
