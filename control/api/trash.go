package api

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// DatasetParam names a dataset in a path.
type DatasetParam struct {
	Dataset string `path:"dataset" doc:"the dataset: a unique prefix of its UUID"`
}

// RestoreTrash asks for a dataset back.
type RestoreTrash struct {
	Name string `json:"name,omitempty" doc:"the name to be; left out: the one it had"`
}

// Emptied says what became of the trash.
type Emptied struct {
	Purged []Outcome `json:"purged"`           // one outcome for each dataset that is purged
	Failed []Failure `json:"failed,omitempty"` // datasets that could not be purged, with the reason
}

// Failure is why one of several could not be done.
type Failure struct {
	Dataset uuid.UUID       `json:"dataset"` // UUID of the dataset
	Problem dataset.Problem `json:"problem"` // why the change failed
}

func (h handlers) trash() {
	add(h, get("/v1/trash", "list-trash", "trash", "List the datasets in the trash"),
		func(ctx context.Context, in *Page) (*answer[List[Volume]], error) {
			return page(h.Service.Trash(ctx, *in))
		})
	add(h, post("/v1/trash/{dataset}/restore", "restore-trash", "trash", "Give a dataset in the trash a name again",
		""),
		func(ctx context.Context, in *struct {
			OperationParam
			DatasetParam
			Body *RestoreTrash
		}) (*answer[Outcome], error) {
			req := in.request(dataset.OpUndelete)
			req.Volume = in.Dataset
			if in.Body != nil {
				req.Name = in.Body.Name
			}
			return h.submit(ctx, req)
		})
	add(h, del("/v1/trash/{dataset}", "purge-trash", "trash", "Destroy a dataset", "It cannot come back."),
		func(ctx context.Context, in *struct {
			OperationParam
			DatasetParam
		}) (*answer[Outcome], error) {
			req := in.request(dataset.OpPurge)
			req.Volume = in.Dataset
			return h.submit(ctx, req)
		})
	add(h, del("/v1/trash", "empty-trash", "trash", "Destroy all that is in the trash",
		"One that cannot be destroyed does not keep the others."),
		func(ctx context.Context, _ *struct{}) (*answer[Emptied], error) { return reply(h.empty(ctx)) })
}

func (h handlers) empty(ctx context.Context) (Emptied, error) {
	done := Emptied{Purged: []Outcome{}}
	for p := (Page{}); ; {
		list, err := h.Service.Trash(ctx, p)
		if err != nil {
			return done, err
		}
		for _, v := range list.Items {
			out, err := h.Service.Submit(ctx, Request{ID: uuid.New(), Kind: dataset.OpPurge, Volume: v.ID.String()})
			if ctx.Err() != nil {
				return done, ctx.Err()
			}
			if err != nil {
				done.Failed = append(done.Failed, Failure{Dataset: v.ID, Problem: *dataset.ProblemOf(err)})
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
