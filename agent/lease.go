package agent

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// opened returns the present record of a dataset, for a caller that waited for its lock. It fails if the dataset
// may not be mounted here for another user.
func (a *Agent) opened(d dataset.Dataset) (dataset.Dataset, error) {
	now, known := a.Cache.Dataset(d.ID)
	if known {
		d = now
	} else if g, guest := a.guests.get(d.ID); guest && g.State == dataset.StateReady {
		return g.Dataset, a.guests.open(g.Dataset)
	}
	switch _, left := a.Cache.Copy(d.ID); {
	case left || d.Home != a.NodeID:
		return d, dataset.Errorf(dataset.ErrConflict, "volume %s went to another node meanwhile: ask again", d.Volume)
	case d.State != dataset.StateReady:
		return d, dataset.Errorf(dataset.ErrNotFound, "volume %s was deleted", d.Volume)
	}
	if err := a.pools.Free(d.Pool); err != nil {
		return d, fmt.Errorf("mount of volume %s: %w", d.Volume, err)
	}
	return d, a.leases.MayOpen(d, "mount")
}

// freed starts the work that waits until a dataset is not mounted any more.
func (a *Agent) freed(id uuid.UUID) {
	a.yieldIfAsked(id)
	if _, left := a.Cache.Copy(id); left {
		a.copies.SettleSoon(id)
	}
	if _, guest := a.guests.get(id); guest {
		a.guestSoon(id, uuid.Nil)
	}
}
