package server

import (
	"context"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/dataset"
)

// host serves the endpoints of an agent, about its host.
func (h handlers) host() {
	h.pools()
	h.backups()
	h.transfers()
	bind(h, endpoint.MeasureSnapshot,
		func(ctx context.Context, in *endpoint.SnapshotParam) (api.SnapshotSpace, error) {
			return h.Local.SnapshotSpace(ctx, in.Snapshot)
		})
	bind(h, endpoint.DiffSnapshot, func(ctx context.Context, in *endpoint.DiffParams) (api.Diff, error) {
		return h.Local.Diff(ctx, in.Snapshot, in.Newer)
	})
	bind(h, endpoint.Doctor, func(ctx context.Context, in *api.Page) (api.List[api.Finding], error) {
		list, err := h.Local.Doctor(ctx)
		return cutPage(*in, list, err, ordinal)
	})
	bind(h, endpoint.ListVolumeIO, func(ctx context.Context, in *api.Page) (api.List[api.VolumeIO], error) {
		list, err := h.Local.VolumeIO(ctx)
		return cutPage(*in, list, err, func(_ int, v api.VolumeIO) string { return v.Dataset.String() })
	})
	bind(h, endpoint.ListHolders, func(ctx context.Context, in *endpoint.VolumeParam) (dataset.Holders, error) {
		return h.Local.VolumeHolders(ctx, in.Volume)
	})
	bindNone(h, endpoint.Collect, func(ctx context.Context, in *endpoint.CollectedParam) error {
		_, err := h.Local.Collect(ctx, in.Dataset, false)
		return err
	})
	bind(h, endpoint.PreviewCollect, func(ctx context.Context, in *endpoint.CollectedParam) (api.Collected, error) {
		return h.Local.Collect(ctx, in.Dataset, true)
	})
	bind(h, endpoint.RebuildStore,
		func(ctx context.Context, in *endpoint.RebuildParams) (api.List[api.Rebuilt], error) {
			noteDryRun(ctx, in.DryRun)
			r := api.RebuildStore{SkipOffline: in.SkipOffline, DryRun: in.DryRun}
			return allItems(h.Local.RebuildStore(ctx, r))
		})
}

func (h handlers) pools() {
	bind(h, endpoint.CreatePool, func(ctx context.Context, in *endpoint.With[api.NewPool]) (dataset.Pool, error) {
		changeOf(ctx).Target = dataset.Clip(in.Body.Name)
		return h.Local.CreatePool(ctx, in.Body)
	})
	bind(h, endpoint.AdoptPool, func(ctx context.Context, in *endpoint.With[api.AdoptPool]) (api.Adopted, error) {
		changeOf(ctx).Target = dataset.Clip(in.Body.Path)
		noteDryRun(ctx, in.Body.DryRun)
		pool, rebuilt, err := h.Local.AdoptPool(ctx, in.Body.Path, in.Body.DryRun)
		if rebuilt == nil {
			rebuilt = []api.Rebuilt{}
		}
		return api.Adopted{Pool: pool, Rebuilt: rebuilt}, err
	})
	bind(h, endpoint.AcceptPool,
		func(ctx context.Context, in *endpoint.PoolChange[api.AcceptPool]) (dataset.Pool, error) {
			noteDryRun(ctx, in.Body.DryRun)
			return h.Local.AcceptPool(ctx, in.Pool, in.Body)
		})
	bind(h, endpoint.SetPool, func(ctx context.Context, in *endpoint.PoolChange[api.PoolPolicy]) (dataset.Pool, error) {
		changeOf(ctx).Detail = "overcommit " + dataset.FormatRatio(in.Body.Overcommit)
		return h.Local.SetPool(ctx, in.Pool, in.Body)
	})
	bind(h, endpoint.RemovePool, func(ctx context.Context, in *endpoint.RemovedPool) (api.RemovedPool, error) {
		if in.Forget {
			changeOf(ctx).Detail = "forget"
		}
		return h.Local.RemovePool(ctx, in.Pool, api.PoolRemoval{Forget: in.Forget})
	})
	bind(h, endpoint.PreviewRemovePool, func(ctx context.Context, in *endpoint.RemovedPool) (api.RemovedPool, error) {
		return h.Local.RemovePool(ctx, in.Pool, api.PoolRemoval{Forget: in.Forget, DryRun: true})
	})
}

func (h handlers) storeBackup() {
	add(h, endpoint.BackupStore.Endpoint, func(context.Context, *endpoint.None) (*Bytes, error) {
		return stream("application/octet-stream", func(ctx context.Context, w *streamWriter) error {
			return h.Backup.Backup(ctx, w)
		}), nil
	}, responds("application/octet-stream", binary))
}
