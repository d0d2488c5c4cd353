package server

import (
	"context"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

func (h handlers) operations() {
	bind(h, endpoint.ListProfiles, func(ctx context.Context, in *api.Page) (api.List[api.ListedProfile], error) {
		list, err := h.Service.Profiles(ctx)
		return cutPage(*in, list, err, func(_ int, p api.ListedProfile) string { return p.Name })
	})
	bind(h, endpoint.GetProfile, func(ctx context.Context, in *endpoint.ProfileParam) (dataset.Profile, error) {
		return h.Service.Profile(ctx, in.Profile)
	})
	bind(h, endpoint.ListOperations, func(ctx context.Context, in *api.Page) (api.List[dataset.Operation], error) {
		return paged(*in, isUUID, func() (api.List[dataset.Operation], error) { return h.Service.Operations(ctx, *in) })
	})
	bindWork(h, endpoint.SubmitOperation,
		func(ctx context.Context, in *endpoint.With[api.Request]) (api.Outcome, string, error) {
			return h.submit(ctx, in.Body)
		})
	bind(h, endpoint.GetOperation, untilStop(
		func(ctx context.Context, in *endpoint.OperationWait) (op dataset.Operation, err error) {
			wait, err := wire.ParseWait(in.Wait)
			if err != nil {
				return op, err
			}
			return h.Service.Operation(ctx, in.Operation, wait)
		}))
	bindWork(h, endpoint.CancelOperation,
		func(ctx context.Context, in *endpoint.OperationRefParam) (dataset.Operation, string, error) {
			op, err := h.Service.CancelOperation(ctx, in.Operation)
			return op, pendingLocation(&op), err
		})
	bind(h, endpoint.GetVersion, func(ctx context.Context, _ *endpoint.None) (api.Version, error) {
		v, err := h.Service.Version(ctx)
		if h.Node != "" { // the service may be control on another host
			v.Node = h.Node
		}
		return v, err
	})
	h.events()
}
