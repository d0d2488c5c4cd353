package server

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/dataset"
)

func (h handlers) trash() {
	bind(h, endpoint.ListTrash, func(ctx context.Context, in *api.Page) (api.List[api.Volume], error) {
		return paged(*in, isUUID, func() (api.List[api.Volume], error) { return h.Service.Trash(ctx, *in) })
	})
	submits(h, endpoint.RestoreTrash, dataset.OpUndelete, func(in *endpoint.RestoredDataset, req *api.Request) {
		req.Volume = in.Dataset
		if in.Body != nil {
			req.Name = in.Body.Name
		}
	})
	submits(h, endpoint.PurgeTrash, dataset.OpPurge, func(in *endpoint.PurgedDataset, req *api.Request) {
		req.Volume = in.Dataset
	})
	bindWork(h, endpoint.EmptyTrash,
		func(ctx context.Context, in *endpoint.DryRunParam) (api.EmptiedTrash, string, error) {
			noteDryRun(ctx, in.DryRun)
			out, err := h.empty(ctx, in.DryRun)
			var location string
			for _, purged := range out.Purged {
				if !in.DryRun && pendingLocation(purged.Operation) != "" {
					location = endpoint.ListOperations.Path
				}
			}
			return out, location, err
		})
}

// noteDryRun notes a dry run in the line of the audit log.
func noteDryRun(ctx context.Context, dryRun bool) {
	if dryRun {
		changeOf(ctx).addDetail("", "dry run")
	}
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
