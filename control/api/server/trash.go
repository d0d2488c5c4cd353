package server

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/route"
	"github.com/droverhq/drover/dataset"
)

func (h handlers) trash() {
	add(h, endpoint(route.ListTrash, "trash", "List the datasets in the trash", ""),
		func(ctx context.Context, in *api.Page) (*answer[api.List[api.Volume]], error) {
			return paged(*in, isUUID, func() (api.List[api.Volume], error) {
				return h.Service.Trash(ctx, *in)
			})
		})
	add(h, endpoint(route.RestoreTrash, "trash", "Restore a dataset from the trash",
		""),
		func(ctx context.Context, in *struct {
			OperationParam
			DatasetParam
			Body *api.RestoreTrash
		}) (*work[api.Outcome], error) {
			req := in.request(dataset.OpUndelete)
			req.Volume = in.Dataset
			if in.Body != nil {
				req.Name = in.Body.Name
			}
			return h.submit(ctx, req)
		})
	add(h, endpoint(route.PurgeTrash, "trash", "Destroy a dataset in the trash", "It cannot be restored after that."),
		func(ctx context.Context, in *struct {
			OperationParam
			DatasetParam
		}) (*work[api.Outcome], error) {
			req := in.request(dataset.OpPurge)
			req.Volume = in.Dataset
			return h.submit(ctx, req)
		})
	add(h, endpoint(route.EmptyTrash, "trash", "Destroy all datasets in the trash",
		"If one of them cannot be destroyed, the others are destroyed nevertheless."),
		func(ctx context.Context, in *DryRunParam) (*work[api.EmptiedTrash], error) {
			in.note(ctx)
			out, err := h.empty(ctx, in.DryRun)
			var location string
			for _, purged := range out.Purged {
				if !in.DryRun && pendingLocation(purged.Operation) != "" {
					location = route.ListOperations.Path
				}
			}
			return accepted(out, location, err)
		})
}

func (h handlers) empty(ctx context.Context, dryRun bool) (api.EmptiedTrash, error) {
	done := api.EmptiedTrash{Purged: []api.Outcome{}}
	for p := (api.Page{}); ; {
		list, err := h.Service.Trash(ctx, p)
		if err != nil {
			return done, err
		}
		for _, v := range list.Items {
			if v.State == dataset.StatePurging { // it is being destroyed already
				continue
			}
			out, err := h.Service.Submit(ctx, api.Request{
				ID: uuid.New(), Kind: dataset.OpPurge, Volume: v.ID.String(), DryRun: dryRun,
			})
			if ctx.Err() != nil {
				return done, ctx.Err()
			}
			if err != nil {
				done.Failed = append(done.Failed, api.Failure{Dataset: v.ID, Problem: *dataset.ProblemOf(err)})
				continue
			}
			done.Purged = append(done.Purged, out)
		}
		if list.Next == "" {
			return done, nil
		}
		p.After = list.Next
	}
}
