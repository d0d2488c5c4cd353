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

// BackupParam names a backup in the path.
type BackupParam struct {
	Backup string `path:"backup" doc:"the backup's full ID"`
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
		func(ctx context.Context, in *struct {
			RepositoryParam
			ForceUnusedParam
		}) (*struct{}, error) {
			return nil, h.Service.RemoveRepository(ctx, in.Repository, in.Force)
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
	h.storedBackups()
}

// storedBackups adds the endpoints about the backups in a repository. Each of them runs restic, which can take as long
// as the repository lets it.
func (h handlers) storedBackups() {
	add(h, endpoint(route.ListBackups, "repositories", "List the backups in a repository", ""),
		func(ctx context.Context, in *struct {
			RepositoryParam
			Volume string `query:"volume" doc:"only the backups of this volume, by the name that it had"`
		}) (*answer[api.BackupList], error) {
			ctx, end := waiting(ctx)
			list, err := h.Local.VolumeBackups(ctx, in.Repository, in.Volume)
			if list.Items == nil {
				list.Items = []api.VolumeBackup{}
			}
			return reply(list, end(err))
		})
	add(h, endpoint(route.ListVersions, "repositories", "List the versions of volumes that were pushed to a repository",
		"The list has what any cluster pushed."),
		func(ctx context.Context, in *struct {
			RepositoryParam
			Name string `query:"name" doc:"only the versions of this name"`
		}) (*answer[api.VersionList], error) {
			ctx, end := waiting(ctx)
			list, err := h.Local.Versions(ctx, in.Repository, in.Name)
			if list.Items == nil {
				list.Items = dataset.History{}
			}
			return reply(list, end(err))
		})
	add(h, endpoint(route.GetBackup, "repositories", "Show a backup with the record of its volume", ""),
		func(ctx context.Context, in *struct {
			RepositoryParam
			BackupParam
		}) (*answer[api.VolumeBackup], error) {
			ctx, end := waiting(ctx)
			b, err := h.Local.VolumeBackup(ctx, in.Repository, in.Backup)
			return reply(b, end(err))
		})
	add(h, endpoint(route.RemoveBackup, "repositories", "Remove a backup from a repository", ""),
		func(ctx context.Context, in *struct {
			RepositoryParam
			BackupParam
		}) (*struct{}, error) {
			changeOf(ctx).Detail = "repository " + dataset.Clip(in.Repository)
			ctx, end := waiting(ctx)
			return nil, end(h.Local.RemoveBackup(ctx, in.Repository, in.Backup))
		})
	add(h, endpoint(route.PruneRepository, "repositories", "Remove the data that no backup in a repository needs", ""),
		func(ctx context.Context, in *struct{ RepositoryParam }) (*struct{}, error) {
			ctx, end := waiting(ctx)
			return nil, end(h.Local.PruneRepository(ctx, in.Repository))
		})
}
