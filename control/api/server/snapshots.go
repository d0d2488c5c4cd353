package server

import (
	"context"
	"maps"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/dataset"
)

func (h handlers) snapshots() {
	bind(h, endpoint.ListSnapshots,
		func(ctx context.Context, in *endpoint.SnapshotPage) (api.List[dataset.Snapshot], error) {
			return paged(in.Page, isSnapshot, func() (api.List[dataset.Snapshot], error) {
				return h.Service.Snapshots(ctx, in.Volume, in.Page)
			})
		})
	bind(h, endpoint.GetSnapshot,
		func(ctx context.Context, in *endpoint.SnapshotOfVolume) (dataset.Snapshot, error) {
			return h.Service.Snapshot(ctx, in.Volume, in.Snapshot)
		})
	submits(h, endpoint.DeleteSnapshot, dataset.OpSnapshotDelete, func(in *endpoint.DeletedSnapshot, req *api.Request) {
		req.Snapshot, req.Volume = in.Snapshot, in.Volume
	})
	submits(h, endpoint.RestoreSnapshot, dataset.OpRestore, func(in *endpoint.RestoredSnapshot, req *api.Request) {
		req.Snapshot, req.Volume = in.Snapshot, in.Body.Volume
	})
	bindWork(h, endpoint.CreateClone, h.clone)
}

func (h handlers) clone(ctx context.Context, in *endpoint.Change[api.CloneVolume]) (api.Outcome, string, error) {
	c := in.Body
	if from, ok := c.Options["from"]; ok && from != c.Source {
		return api.Outcome{}, "", dataset.Errorf(dataset.ErrInvalid,
			"clone of %q: unexpected option from: %q (use only one)", dataset.Clip(c.Source), dataset.Clip(from))
	}
	req := in.Request(dataset.OpClone)
	req.Volume, req.Options = c.Volume, maps.Clone(c.Options)
	if req.Options == nil {
		req.Options = map[string]string{}
	}
	req.Options["from"] = c.Source
	return h.submit(ctx, req)
}
