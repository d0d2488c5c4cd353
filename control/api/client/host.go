package client

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/dataset"
)

// Host implements api.Local, the requests that the agent of the server's host answers, and api.Backup, the backup of
// the store on that host.
type Host struct{ conn *connection }

// Doctor returns what works on the server's host and what does not.
func (h Host) Doctor(ctx context.Context) ([]api.Finding, error) {
	return items(ctx, h.conn, endpoint.Doctor, anyPage)
}

// VolumeIO returns how much the mounted volumes of the server's host were read and written.
func (h Host) VolumeIO(ctx context.Context) ([]api.VolumeIO, error) {
	return items(ctx, h.conn, endpoint.ListVolumeIO, anyPage)
}

// VolumeHolders returns who uses a volume of the server's host.
func (h Host) VolumeHolders(ctx context.Context, volume string) (dataset.Holders, error) {
	return ask(ctx, h.conn, endpoint.ListHolders, endpoint.VolumeParam{Volume: volume})
}

// Collect destroys one dataset that the store does not know. Only a dry run returns a description of the dataset.
// Otherwise the result contains only its UUID.
func (h Host) Collect(ctx context.Context, id uuid.UUID, dryRun bool) (api.Collected, error) {
	in := endpoint.CollectedParam{Dataset: id}
	if dryRun {
		return ask(ctx, h.conn, endpoint.PreviewCollect, in)
	}
	return api.Collected{Dataset: id}, tell(ctx, h.conn, endpoint.Collect, in)
}

// CreatePool creates a pool on the server's host.
func (h Host) CreatePool(ctx context.Context, p api.NewPool) (dataset.Pool, error) {
	return ask(ctx, h.conn, endpoint.CreatePool, endpoint.With[api.NewPool]{Body: p})
}

// AdoptPool takes over an existing pool on the server's host.
func (h Host) AdoptPool(ctx context.Context, path string, dryRun bool) (dataset.Pool, []api.Rebuilt, error) {
	in := endpoint.With[api.AdoptPool]{Body: api.AdoptPool{Path: path, DryRun: dryRun}}
	a, err := ask(ctx, h.conn, endpoint.AdoptPool, in)
	return a.Pool, a.Rebuilt, err
}

// AcceptPool lets a quarantined pool of the server's host serve in its present state.
func (h Host) AcceptPool(ctx context.Context, name string, a api.AcceptPool) (dataset.Pool, error) {
	in := endpoint.PoolChange[api.AcceptPool]{PoolParam: endpoint.PoolParam{Pool: name}, Body: a}
	return ask(ctx, h.conn, endpoint.AcceptPool, in)
}

// SetPool changes the policy of a pool of the server's host.
func (h Host) SetPool(ctx context.Context, name string, p api.PoolPolicy) (dataset.Pool, error) {
	in := endpoint.PoolChange[api.PoolPolicy]{PoolParam: endpoint.PoolParam{Pool: name}, Body: p}
	return ask(ctx, h.conn, endpoint.SetPool, in)
}

// RemovePool removes an empty pool of the server's host. With Forget it only deletes the record.
func (h Host) RemovePool(ctx context.Context, name string, how api.PoolRemoval) (api.RemovedPool, error) {
	in := endpoint.RemovedPool{PoolParam: endpoint.PoolParam{Pool: name}, Forget: how.Forget}
	if how.DryRun {
		return ask(ctx, h.conn, endpoint.PreviewRemovePool, in)
	}
	return ask(ctx, h.conn, endpoint.RemovePool, in)
}

// RebuildStore restores the records of the datasets in the pools of the server's host.
func (h Host) RebuildStore(ctx context.Context, r api.RebuildStore) ([]api.Rebuilt, error) {
	l, err := ask(ctx, h.conn, endpoint.RebuildStore, endpoint.RebuildParams{
		SkipOffline: r.SkipOffline, DryRunParam: endpoint.DryRunParam{DryRun: r.DryRun},
	})
	return l.Items, err
}

// SnapshotSpace returns how much space the deletion of a snapshot frees.
func (h Host) SnapshotSpace(ctx context.Context, snapshot string) (api.SnapshotSpace, error) {
	return ask(ctx, h.conn, endpoint.MeasureSnapshot, endpoint.SnapshotParam{Snapshot: snapshot})
}

// Diff compares two snapshots of a dataset, or a snapshot with the present data if newer is empty.
func (h Host) Diff(ctx context.Context, older, newer string) (api.Diff, error) {
	in := endpoint.DiffParams{SnapshotParam: endpoint.SnapshotParam{Snapshot: older}, Newer: newer}
	return ask(ctx, h.conn, endpoint.DiffSnapshot, in)
}

// CheckRepository opens a repository for backups from the server's host, and checks a recorded one.
func (h Host) CheckRepository(ctx context.Context, c api.RepositoryCheck) (api.RepositoryState, error) {
	return ask(ctx, h.conn, endpoint.CheckRepository, endpoint.With[api.RepositoryCheck]{Body: c})
}

// VolumeBackups lists the backups in a repository, as the server's host sees them.
func (h Host) VolumeBackups(ctx context.Context, repository, volume string) (api.BackupList, error) {
	return ask(ctx, h.conn, endpoint.ListBackups, endpoint.BackupsOfVolume{
		RepositoryParam: endpoint.RepositoryParam{Repository: repository}, Volume: volume,
	})
}

// Versions lists the versions of volumes in a repository, as the server's host sees them.
func (h Host) Versions(ctx context.Context, repository, name string) (api.VersionList, error) {
	return ask(ctx, h.conn, endpoint.ListVersions, endpoint.VersionsOfName{
		RepositoryParam: endpoint.RepositoryParam{Repository: repository}, Name: name,
	})
}

// VolumeBackup returns a backup in a repository, with the record of its volume.
func (h Host) VolumeBackup(ctx context.Context, repository, id string) (api.VolumeBackup, error) {
	return ask(ctx, h.conn, endpoint.GetBackup, backupIn(repository, id))
}

// RemoveBackup removes a backup from a repository.
func (h Host) RemoveBackup(ctx context.Context, repository, id string) error {
	return tell(ctx, h.conn, endpoint.RemoveBackup, backupIn(repository, id))
}

// PruneRepository removes the data that no backup in a repository needs.
func (h Host) PruneRepository(ctx context.Context, repository string) error {
	return tell(ctx, h.conn, endpoint.PruneRepository, endpoint.RepositoryParam{Repository: repository})
}

func backupIn(repository, id string) endpoint.BackupParam {
	return endpoint.BackupParam{RepositoryParam: endpoint.RepositoryParam{Repository: repository}, Backup: id}
}
