package server

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/route"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

func (h handlers) profiles() {
	add(h, endpoint(route.ListProfiles, "profiles", "List the profiles", ""),
		func(ctx context.Context, in *api.Page) (*answer[api.List[api.ListedProfile]], error) {
			list, err := h.Service.Profiles(ctx)
			return cutPage(*in, list, err, func(_ int, p api.ListedProfile) string { return p.Name })
		})
	add(h, endpoint(route.GetProfile, "profiles", "Show a profile", ""),
		func(ctx context.Context, in *struct {
			Profile string `path:"profile" doc:"the profile's name"`
		}) (*answer[dataset.Profile], error) {
			return reply(h.Service.Profile(ctx, in.Profile))
		})
}

func (h handlers) operations() {
	add(h, endpoint(route.ListOperations, "operations", "List operations", ""),
		func(ctx context.Context, in *api.Page) (*answer[api.List[dataset.Operation]], error) {
			return paged(*in, isUUID, func() (api.List[dataset.Operation], error) {
				return h.Service.Operations(ctx, *in)
			})
		})
	add(h, endpoint(route.SubmitOperation, "operations", "Request a change",
		"The general form of every endpoint that changes a volume, snapshot or dataset. A request that is "+
			"repeated with the same ID returns the same operation."),
		func(ctx context.Context, in *struct{ Body api.Request }) (*work[api.Outcome], error) {
			if in.Body.ID == uuid.Nil {
				in.Body.ID = uuid.New()
			}
			return h.submit(ctx, in.Body)
		})
	add(h, endpoint(route.GetOperation, "operations", "Show an operation, or wait for it", ""),
		func(ctx context.Context, in *struct {
			OperationRefParam
			Wait string `query:"wait" doc:"how long to wait for the end, or for a change of the progress" example:"30s"`
		}) (*answer[dataset.Operation], error) {
			wait, err := wire.ParseWait(in.Wait)
			if err != nil {
				return nil, err
			}
			ctx, end := waiting(ctx)
			op, err := h.Service.Operation(ctx, in.Operation, wait)
			return reply(op, end(err))
		})
	add(h, endpoint(route.CancelOperation, "operations", "Cancel an operation", ""),
		func(ctx context.Context, in *OperationRefParam) (*work[dataset.Operation], error) {
			op, err := h.Service.CancelOperation(ctx, in.Operation)
			return accepted(op, pendingLocation(&op), err)
		})
	add(h, endpoint(route.GetVersion, "operations", "Get the version of the server", ""),
		func(ctx context.Context, _ *struct{}) (*answer[api.Version], error) {
			v, err := h.Service.Version(ctx)
			if h.Node != "" { // the service may be control on another host
				v.Node = h.Node
			}
			return reply(v, err)
		})
}
