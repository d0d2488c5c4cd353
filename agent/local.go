package agent

import (
	"context"
	"io"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Doctor is status.Doctor.Examine.
func (a *Agent) Doctor(ctx context.Context) ([]api.Finding, error) { return a.Examiner.Examine(ctx) }

// CreatePool is pooladmin.Creator.Create.
func (a *Agent) CreatePool(ctx context.Context, p api.NewPool) (dataset.Pool, error) {
	return a.PoolCreator.Create(ctx, p)
}

// AdoptPool is pooladmin.Creator.Adopt.
func (a *Agent) AdoptPool(ctx context.Context, path string, dryRun bool) (dataset.Pool, []api.Rebuilt, error) {
	return a.PoolCreator.Adopt(ctx, path, dryRun)
}

// AcceptPool is pooladmin.Quarantine.Accept.
func (a *Agent) AcceptPool(ctx context.Context, name string, in api.AcceptPool) (dataset.Pool, error) {
	return a.Quarantine.Accept(ctx, name, in)
}

// SetPool is pooladmin.Creator.Set.
func (a *Agent) SetPool(ctx context.Context, name string, p api.PoolPolicy) (dataset.Pool, error) {
	return a.PoolCreator.Set(ctx, name, p)
}

// RemovePool is pooladmin.Remover.Remove.
func (a *Agent) RemovePool(ctx context.Context, name string, how api.PoolRemoval) (api.RemovedPool, error) {
	return a.PoolRemover.Remove(ctx, name, how)
}

// Collect is pooladmin.Collector.Collect.
func (a *Agent) Collect(ctx context.Context, id uuid.UUID, dryRun bool) (api.Collected, error) {
	return a.Collector.Collect(ctx, id, dryRun)
}

// RebuildStore is controlsync.Holdings.RebuildStore.
func (a *Agent) RebuildStore(ctx context.Context, r api.RebuildStore) ([]api.Rebuilt, error) {
	return a.Holdings.RebuildStore(ctx, r)
}

// Import makes a volume from a tar archive.
func (a *Agent) Import(ctx context.Context, req api.Request, r io.Reader) (dataset.Dataset, error) {
	return a.Importer.ImportArchive(ctx, req, r)
}

// VolumeHolders returns who uses a volume whose home is this node: see mounting.Holders.Examine.
func (a *Agent) VolumeHolders(ctx context.Context, volume string) (dataset.Holders, error) {
	d, known := a.Cache.Volume(volume)
	if id, err := uuid.Parse(volume); err == nil && !known {
		d, known = a.Cache.Dataset(id)
	}
	if !known {
		v, err := a.Control.Volume(ctx, volume)
		if err != nil {
			return dataset.Holders{}, err
		}
		d = v.Dataset
	}
	if d.Home != a.NodeID {
		return dataset.Holders{}, dataset.Errorf(dataset.ErrUnsupported,
			"holders of volume %s: its home is another node, and only that node can examine them (drover volume "+
				"inspect %s shows it)", d.Volume, d.Volume)
	}
	return a.components.Holders.Examine(ctx, d), nil
}

// CheckRepository is backup.Checker.Check.
func (a *Agent) CheckRepository(ctx context.Context, c api.RepositoryCheck) (api.RepositoryState, error) {
	return a.Backups.Repositories.Check(ctx, c)
}
