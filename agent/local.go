package agent

import (
	"context"
	"io"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Doctor is doctor.Doctor.Examine.
func (a *Agent) Doctor(ctx context.Context) ([]api.Finding, error) { return a.Examine(ctx) }

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
