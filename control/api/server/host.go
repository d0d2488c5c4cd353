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
			return cut(*in, list, err, poolCursor)
		})
	add(h, endpoint(route.CreatePool, "pools", "Make a pool on this host", ""),
		func(ctx context.Context, in *struct{ Body api.NewPool }) (*answer[dataset.Pool], error) {
			changeOf(ctx).Target = dataset.Clip(in.Body.Name)
			return reply(h.Local.CreatePool(ctx, in.Body))
		})
	add(h, endpoint(route.AdoptPool, "pools", "Take over a pool that lies on this host",
		"What is in it gets its names again."),
		func(ctx context.Context, in *struct{ Body api.AdoptPool }) (*answer[api.Adopted], error) {
			changeOf(ctx).Target = dataset.Clip(in.Body.Path)
			pool, rebuilt, err := h.Local.AdoptPool(ctx, in.Body.Path)
			if rebuilt == nil {
				rebuilt = []api.Rebuilt{}
			}
			return reply(api.Adopted{Pool: pool, Rebuilt: rebuilt}, err)
		})
	add(h, endpoint(route.AcceptPool, "pools", "Have a pool of this host that is held serve as it is",
		"It was put back to an older state: what was written to it since is lost."),
		func(ctx context.Context, in *struct {
			PoolParam
			Body api.AcceptPool
		}) (*answer[dataset.Pool], error) {
			return reply(h.Local.AcceptPool(ctx, in.Pool, in.Body))
		})
	add(h, endpoint(route.RemovePool, "pools", "Remove a pool of this host that holds nothing",
		"What Drover made at its place goes. Refused while anything lies or is on record there."),
		func(ctx context.Context, in *struct {
			PoolParam
			Forget bool `query:"forget" doc:"take it off the record alone, and touch nothing at its place, which may be away"`
		}) (*answer[api.RemovedPool], error) {
			if in.Forget {
				changeOf(ctx).Detail = "forget"
			}
			return reply(h.Local.RemovePool(ctx, in.Pool, in.Forget))
		})
}

func (h handlers) local() {
	add(h, endpoint(route.Doctor, "host", "Say what works on this host, what does not and why", ""),
		func(ctx context.Context, in *api.Page) (*answer[api.List[api.Finding]], error) {
			list, err := h.Local.Doctor(ctx)
			return cut(*in, list, err, ordinal)
		})
	add(h, endpoint(route.Collect, "host", "Destroy one thing that the store does not know",
		"Doctor lists them. There is no other way in which Drover destroys what it does not know."),
		func(ctx context.Context, in *struct {
			Dataset uuid.UUID `path:"dataset" doc:"the full UUID, as doctor prints it"`
		}) (*struct{}, error) {
			return nil, h.Local.Collect(ctx, in.Dataset)
		})
	add(h, endpoint(route.RebuildStore, "host",
		"Bring back the names from what lies in this host's pools", ""),
		func(ctx context.Context, in *struct {
			SkipOffline bool `query:"skip_offline" doc:"go without the pools that are offline: others can take their names"`
		}) (*answer[api.List[api.Rebuilt]], error) {
			return all(h.Local.RebuildStore(ctx, in.SkipOffline))
		})
}
