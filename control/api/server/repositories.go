package server

import (
	"context"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/dataset"
)

func (h handlers) repositories() {
	bind(h, endpoint.ListRepositories, func(ctx context.Context, in *api.Page) (api.List[dataset.Repository], error) {
		list, err := h.Service.Repositories(ctx)
		return cutPage(*in, list, err, func(_ int, r dataset.Repository) string { return r.Name })
	})
	bind(h, endpoint.GetRepository,
		func(ctx context.Context, in *endpoint.RepositoryParam) (dataset.Repository, error) {
			return h.Service.Repository(ctx, in.Repository)
		})
	bind(h, endpoint.AddRepository,
		func(ctx context.Context, in *endpoint.With[api.NewRepository]) (dataset.Repository, error) {
			changeOf(ctx).Target = dataset.Clip(in.Body.Name)
			return h.Service.AddRepository(ctx, in.Body)
		})
	bindNone(h, endpoint.RemoveRepository, func(ctx context.Context, in *endpoint.RemovedRepository) error {
		return h.Service.RemoveRepository(ctx, in.Repository, in.Force)
	})
}

// backups serves the endpoints about the backups in a repository. Each of them runs restic, which can take as long as
// the repository lets it.
func (h handlers) backups() {
	bind(h, endpoint.CheckRepository, untilStop(
		func(ctx context.Context, in *endpoint.With[api.RepositoryCheck]) (api.RepositoryState, error) {
			name := in.Body.Name
			if in.Body.New != nil {
				name = in.Body.New.Name
			}
			changeOf(ctx).Target = dataset.Clip(name)
			return h.Local.CheckRepository(ctx, in.Body)
		}))
	bind(h, endpoint.ListBackups, untilStop(
		func(ctx context.Context, in *endpoint.BackupsOfVolume) (api.BackupList, error) {
			list, err := h.Local.VolumeBackups(ctx, in.Repository, in.Volume)
			if list.Items == nil {
				list.Items = []api.VolumeBackup{}
			}
			return list, err
		}))
	bind(h, endpoint.ListVersions, untilStop(
		func(ctx context.Context, in *endpoint.VersionsOfName) (api.VersionList, error) {
			list, err := h.Local.Versions(ctx, in.Repository, in.Name)
			if list.Items == nil {
				list.Items = dataset.History{}
			}
			return list, err
		}))
	bind(h, endpoint.GetBackup, untilStop(
		func(ctx context.Context, in *endpoint.BackupParam) (api.VolumeBackup, error) {
			return h.Local.VolumeBackup(ctx, in.Repository, in.Backup)
		}))
	bindNone(h, endpoint.RemoveBackup, func(ctx context.Context, in *endpoint.BackupParam) error {
		changeOf(ctx).Detail = "repository " + dataset.Clip(in.Repository)
		ctx, end := waiting(ctx)
		return end(h.Local.RemoveBackup(ctx, in.Repository, in.Backup))
	})
	bindNone(h, endpoint.PruneRepository, func(ctx context.Context, in *endpoint.RepositoryParam) error {
		ctx, end := waiting(ctx)
		return end(h.Local.PruneRepository(ctx, in.Repository))
	})
}
