package client

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/route"
	"github.com/droverhq/drover/dataset"
)

// Host implements api.Local, the requests that the agent of the server's host answers, and api.Backup, the backup of
// the store on that host.
type Host struct{ conn *connection }

// Doctor returns what works on the server's host and what does not.
func (h Host) Doctor(ctx context.Context) ([]api.Finding, error) {
	return items[api.Finding](ctx, h.conn, route.Doctor)
}

// VolumeIO returns how much the mounted volumes of the server's host were read and written.
func (h Host) VolumeIO(ctx context.Context) ([]api.VolumeIO, error) {
	return items[api.VolumeIO](ctx, h.conn, route.ListVolumeIO)
}

// VolumeHolders returns who uses a volume of the server's host.
func (h Host) VolumeHolders(ctx context.Context, volume string) (dataset.Holders, error) {
	return fetch[dataset.Holders](ctx, h.conn, newCall(route.ListHolders, volume))
}

// Collect destroys one dataset that the store does not know. Only a dry run returns a description of the dataset.
// Otherwise the result contains only its UUID.
func (h Host) Collect(ctx context.Context, id uuid.UUID, dryRun bool) (api.Collected, error) {
	if dryRun {
		return fetch[api.Collected](ctx, h.conn, newCall(route.PreviewCollect, id.String()))
	}
	return api.Collected{Dataset: id}, h.conn.send(ctx, newCall(route.Collect, id.String()))
}

// CreatePool creates a pool on the server's host.
func (h Host) CreatePool(ctx context.Context, p api.NewPool) (dataset.Pool, error) {
	return fetch[dataset.Pool](ctx, h.conn, newCall(route.CreatePool).with(p))
}

// AdoptPool takes over an existing pool on the server's host.
func (h Host) AdoptPool(ctx context.Context, path string, dryRun bool) (dataset.Pool, []api.Rebuilt, error) {
	k := newCall(route.AdoptPool).with(api.AdoptPool{Path: path, DryRun: dryRun})
	a, err := fetch[api.Adopted](ctx, h.conn, k)
	return a.Pool, a.Rebuilt, err
}

// AcceptPool lets a quarantined pool of the server's host serve in its present state.
func (h Host) AcceptPool(ctx context.Context, name string, a api.AcceptPool) (dataset.Pool, error) {
	return fetch[dataset.Pool](ctx, h.conn, newCall(route.AcceptPool, name).with(a))
}

// SetPool changes the policy of a pool of the server's host.
func (h Host) SetPool(ctx context.Context, name string, p api.PoolPolicy) (dataset.Pool, error) {
	return fetch[dataset.Pool](ctx, h.conn, newCall(route.SetPool, name).with(p))
}

// RemovePool removes an empty pool of the server's host. With Forget it only deletes the record.
func (h Host) RemovePool(ctx context.Context, name string, how api.PoolRemoval) (api.RemovedPool, error) {
	k := newCall(route.RemovePool, name)
	if how.DryRun {
		k = newCall(route.PreviewRemovePool, name)
	}
	k.query = query("forget", flag(how.Forget))
	return fetch[api.RemovedPool](ctx, h.conn, k)
}

// RebuildStore restores the records of the datasets in the pools of the server's host.
func (h Host) RebuildStore(ctx context.Context, r api.RebuildStore) ([]api.Rebuilt, error) {
	k := newCall(route.RebuildStore)
	k.query = query("skip_offline", flag(r.SkipOffline), "dry_run", flag(r.DryRun))
	l, err := fetch[api.List[api.Rebuilt]](ctx, h.conn, k)
	return l.Items, err
}

// SnapshotSpace returns how much space the deletion of a snapshot frees.
func (h Host) SnapshotSpace(ctx context.Context, snapshot string) (api.SnapshotSpace, error) {
	return one[api.SnapshotSpace](ctx, h.conn, route.MeasureSnapshot, snapshot)
}

// Diff compares two snapshots of a dataset, or a snapshot with the present data if newer is empty.
func (h Host) Diff(ctx context.Context, older, newer string) (api.Diff, error) {
	return one[api.Diff](ctx, h.conn, route.DiffSnapshot, older, "newer", newer)
}

// CheckRepository opens a repository for backups from the server's host, and checks a recorded one.
func (h Host) CheckRepository(ctx context.Context, c api.RepositoryCheck) (api.RepositoryState, error) {
	return fetch[api.RepositoryState](ctx, h.conn, newCall(route.CheckRepository).with(c))
}

// VolumeBackups lists the backups in a repository, as the server's host sees them.
func (h Host) VolumeBackups(ctx context.Context, repository, volume string) (api.BackupList, error) {
	return one[api.BackupList](ctx, h.conn, route.ListBackups, repository, "volume", volume)
}

// Versions lists the versions of volumes in a repository, as the server's host sees them.
func (h Host) Versions(ctx context.Context, repository, name string) (api.VersionList, error) {
	return one[api.VersionList](ctx, h.conn, route.ListVersions, repository, "name", name)
}

// VolumeBackup returns a backup in a repository, with the record of its volume.
func (h Host) VolumeBackup(ctx context.Context, repository, id string) (api.VolumeBackup, error) {
	return fetch[api.VolumeBackup](ctx, h.conn, newCall(route.GetBackup, repository, id))
}

// RemoveBackup removes a backup from a repository.
func (h Host) RemoveBackup(ctx context.Context, repository, id string) error {
	return h.conn.send(ctx, newCall(route.RemoveBackup, repository, id))
}

// PruneRepository removes the data that no backup in a repository needs.
func (h Host) PruneRepository(ctx context.Context, repository string) error {
	return h.conn.send(ctx, newCall(route.PruneRepository, repository))
}
