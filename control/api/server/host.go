package server

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/route"
	"github.com/droverhq/drover/dataset"
)

func (h handlers) pools() {
	add(h, endpoint(route.ListPools, "pools", "List the pools", ""),
		func(ctx context.Context, in *api.Page) (*answer[api.List[api.Pool]], error) {
			list, err := h.Service.Pools(ctx)
			return cutPage(*in, list, err, poolCursor)
		})
	add(h, endpoint(route.CreatePool, "pools", "Create a pool on this host", ""),
		func(ctx context.Context, in *struct{ Body api.NewPool }) (*answer[dataset.Pool], error) {
			changeOf(ctx).Target = dataset.Clip(in.Body.Name)
			return reply(h.Local.CreatePool(ctx, in.Body))
		})
	add(h, endpoint(route.AdoptPool, "pools", "Adopt an existing pool on this host",
		"Its datasets get their names again."),
		func(ctx context.Context, in *struct{ Body api.AdoptPool }) (*answer[api.Adopted], error) {
			changeOf(ctx).Target = dataset.Clip(in.Body.Path)
			DryRunParam{in.Body.DryRun}.note(ctx)
			pool, rebuilt, err := h.Local.AdoptPool(ctx, in.Body.Path, in.Body.DryRun)
			if rebuilt == nil {
				rebuilt = []api.Rebuilt{}
			}
			return reply(api.Adopted{Pool: pool, Rebuilt: rebuilt}, err)
		})
	add(h, endpoint(route.AcceptPool, "pools", "Accept a quarantined pool of this host",
		"Its disk was restored from an older state: data that was written since then is lost."),
		func(ctx context.Context, in *struct {
			PoolParam
			Body api.AcceptPool
		}) (*answer[dataset.Pool], error) {
			DryRunParam{in.Body.DryRun}.note(ctx)
			return reply(h.Local.AcceptPool(ctx, in.Pool, in.Body))
		})
	add(h, endpoint(route.SetPool, "pools", "Change the policy of a pool of this host", ""),
		func(ctx context.Context, in *struct {
			PoolParam
			Body api.PoolPolicy
		}) (*answer[dataset.Pool], error) {
			changeOf(ctx).Detail = "overcommit " + dataset.FormatRatio(in.Body.Overcommit)
			return reply(h.Local.SetPool(ctx, in.Pool, in.Body))
		})
	add(h, endpoint(route.RemovePool, "pools", "Remove an empty pool of this host",
		"The files that Drover made at its path are removed. Refused while the pool contains anything, or "+
			"anything is recorded in it."),
		func(ctx context.Context, in *struct {
			PoolParam
			ForgetParam
		}) (*answer[api.RemovedPool], error) {
			if in.Forget {
				changeOf(ctx).Detail = "forget"
			}
			return reply(h.Local.RemovePool(ctx, in.Pool, api.PoolRemoval{Forget: in.Forget}))
		})
	add(h, endpoint(route.PreviewRemovePool, "pools", "Preview the removal of a pool of this host", ""),
		func(ctx context.Context, in *struct {
			PoolParam
			ForgetParam
		}) (*answer[api.RemovedPool], error) {
			return reply(h.Local.RemovePool(ctx, in.Pool, api.PoolRemoval{Forget: in.Forget, DryRun: true}))
		})
}

func (h handlers) local() {
	add(h, endpoint(route.Doctor, "host", "Examine this host", ""),
		func(ctx context.Context, in *api.Page) (*answer[api.List[api.Finding]], error) {
			list, err := h.Local.Doctor(ctx)
			return cutPage(*in, list, err, ordinal)
		})
	add(h, endpoint(route.ListVolumeIO, "host",
		"List how much the mounted volumes of this host were read and written", ""),
		func(ctx context.Context, in *api.Page) (*answer[api.List[api.VolumeIO]], error) {
			list, err := h.Local.VolumeIO(ctx)
			return cutPage(*in, list, err, func(_ int, v api.VolumeIO) string { return v.Dataset.String() })
		})
	add(h, endpoint(route.ListHolders, "host", "Say who uses a volume of this host", ""),
		func(ctx context.Context, in *struct{ VolumeParam }) (*answer[dataset.Holders], error) {
			return reply(h.Local.VolumeHolders(ctx, in.Volume))
		})
	add(h, endpoint(route.Collect, "host", "Destroy a dataset or snapshot that the store does not know",
		"The endpoint doctor lists them. Drover destroys unknown data in no other way."),
		func(ctx context.Context, in *struct {
			Dataset uuid.UUID `path:"dataset" doc:"the full UUID, as doctor prints it"`
		}) (*struct{}, error) {
			_, err := h.Local.Collect(ctx, in.Dataset, false)
			return nil, err
		})
	add(h, endpoint(route.PreviewCollect, "host", "Preview the removal of one thing that the store does not know", ""),
		func(ctx context.Context, in *struct {
			Dataset uuid.UUID `path:"dataset" doc:"the full UUID, as doctor prints it"`
		}) (*answer[api.Collected], error) {
			return reply(h.Local.Collect(ctx, in.Dataset, true))
		})
	add(h, endpoint(route.RebuildStore, "host",
		"Rebuild the records of the datasets in this host's pools", ""),
		func(ctx context.Context, in *struct {
			SkipOffline bool `query:"skip_offline" doc:"skip offline pools; the names of their volumes become free"`
			DryRunParam
		}) (*answer[api.List[api.Rebuilt]], error) {
			in.DryRunParam.note(ctx)
			return allItems(h.Local.RebuildStore(ctx, api.RebuildStore{SkipOffline: in.SkipOffline, DryRun: in.DryRun}))
		})
}
