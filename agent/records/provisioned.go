package records

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Provisioned returns the sum of the sizes of the volumes and replicas in a pool. Volumes in the trash do not count:
// nobody writes to them.
func (c *Cache) Provisioned(pool uuid.UUID) dataset.Size {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.provisioned[pool]
}

// provisionedBy returns how large a dataset may become, or 0 if nobody can write to it or if it has no limit.
func provisionedBy(d dataset.Dataset) dataset.Size {
	if d.State != dataset.StateReady {
		return 0
	}
	return d.Size
}

// provisionedByCopy is provisionedBy for a copy. A replica may become the volume at any time.
func provisionedByCopy(k api.AssignedCopy) dataset.Size {
	if k.Kind != dataset.CopyReplica || k.Record == nil {
		return 0
	}
	return provisionedBy(*k.Record)
}
