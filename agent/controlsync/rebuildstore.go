package controlsync

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// RebuildStore updates the store of a single host after the store was lost or restored from a backup. Control records
// every dataset in this node's pools that the store lacks. It also records a dataset again if the store's record is
// older than a change that this node has seen. If the store is inconsistent, RebuildStore marks all incoming datasets
// of the pools as doubtful. Idempotent. It fails with ErrUnsupported on a host of a cluster, because another node may
// have a later epoch of a dataset. It fails with ErrOffline while a pool is offline, unless in.SkipOffline is set. With
// in.DryRun it changes nothing, and returns the result that the rebuild would have.
func (r *Holdings) RebuildStore(ctx context.Context, in api.RebuildStore) ([]api.Rebuilt, error) {
	if !r.Solo {
		return nil, dataset.Errorf(dataset.ErrUnsupported,
			"store recover --from-pools: another node of the cluster may have later data than this one "+
				"(drover store recover asks all nodes; drover pool adopt PATH restores the records of a pool that the "+
				"store does not know)")
	}
	found, err := r.findAll(ctx, in)
	if err != nil {
		return nil, err
	}
	// Report the epochs that this node has relinquished, if control may have recorded that. The node must not open them
	// again, so control gives such a dataset a later one.
	answered, byDataset := r.Leases.AnsweredEpochs(), map[uuid.UUID]api.RelinquishedEpoch{}
	for _, g := range r.Leases.AllRelinquished() {
		byDataset[g.Dataset] = g
	}
	for i := range found {
		id := found[i].Dataset.ID
		if g, relinquished := byDataset[id]; relinquished && answered[id] == g.Epoch {
			found[i].Relinquished = &g
		}
	}
	out, err := r.Control.Rebuild(ctx, r.NodeID, found, in.DryRun)
	if err != nil || in.DryRun {
		return out, err
	}
	return out, r.Follower.Accept(ctx)
}

// findAll lists the datasets in all pools of this node. Names are only assigned once all datasets are known, so control
// needs all of them at once.
func (r *Holdings) findAll(ctx context.Context, in api.RebuildStore) (found []api.FoundDataset, err error) {
	for _, p := range r.Pools.All() {
		if r.Trust.Err() != nil && !in.DryRun {
			if err := r.Pools.MarkAllDoubtful(ctx, p.ID); err != nil {
				return nil, err
			}
		}
		_, err := r.Pools.Online(ctx, p.ID)
		if errors.Is(err, dataset.ErrOffline) && in.SkipOffline {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w (bring it back online first, so that others cannot take its names, or use "+
				"--skip-offline)", err)
		}
		here, err := r.ListPool(ctx, p)
		if err != nil {
			return nil, err
		}
		found = append(found, here...)
	}
	return found, nil
}
