package server

import (
	"context"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/route"
	"github.com/droverhq/drover/dataset"
)

// RepositoryParam names a repository in the path.
type RepositoryParam struct {
	Repository string `path:"repository" doc:"the repository's name"`
}

func (h handlers) repositories() {
	add(h, endpoint(route.ListRepositories, "repositories", "List the repositories for backups", ""),
		func(ctx context.Context, in *api.Page) (*answer[api.List[dataset.Repository]], error) {
			list, err := h.Service.Repositories(ctx)
			return cutPage(*in, list, err, func(_ int, r dataset.Repository) string { return r.Name })
		})
	add(h, endpoint(route.GetRepository, "repositories", "Show a repository", ""),
		func(ctx context.Context, in *struct{ RepositoryParam }) (*answer[dataset.Repository], error) {
			return reply(h.Service.Repository(ctx, in.Repository))
		})
	add(h, endpoint(route.AddRepository, "repositories", "Add a repository", ""),
		func(ctx context.Context, in *struct{ Body api.NewRepository }) (*answer[dataset.Repository], error) {
			changeOf(ctx).Target = dataset.Clip(in.Body.Name)
			return reply(h.Service.AddRepository(ctx, in.Body))
		})
	add(h, endpoint(route.RemoveRepository, "repositories", "Remove the record of a repository", ""),
		func(ctx context.Context, in *struct{ RepositoryParam }) (*struct{}, error) {
			return nil, h.Service.RemoveRepository(ctx, in.Repository)
		})
	add(h, endpoint(route.CheckRepository, "repositories", "Open or check a repository from this host", ""),
		func(ctx context.Context, in *struct{ Body api.RepositoryCheck }) (*answer[api.RepositoryState], error) {
			name := in.Body.Name
			if in.Body.New != nil {
				name = in.Body.New.Name
			}
			changeOf(ctx).Target = dataset.Clip(name)
			ctx, end := waiting(ctx) // a check takes hours, and a shutdown waits only for seconds
			state, err := h.Local.CheckRepository(ctx, in.Body)
			return reply(state, end(err))
		})
}
