package pooladmin

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/agent/replication"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/dataset"
)

// CollectorDeps are the dependencies of Collector.
type CollectorDeps struct {
	*host.Host
	Backends *backends.Registry
	Pools    *pool.Pools
	Datasets *operation.Datasets
	Copies   *replication.Copies
	Verifier *mounting.Verifier
}

// Collector destroys datasets in this node's pools that have no record. An operator asks for each one. It has no state
// of its own. Its methods are safe for concurrent use.
type Collector struct{ CollectorDeps }

// NewCollector returns a Collector.
func NewCollector(deps CollectorDeps) *Collector { return &Collector{deps} }

// Collect destroys one dataset of a pool that has no record in control's store. It fails with ErrConflict while the
// store is inconsistent, because the record may be missing for that reason.
func (c *Collector) Collect(ctx context.Context, id uuid.UUID) error {
	if found, err := c.collectTrial(ctx, id); found {
		return err
	}
	if err := c.checkCollectable(ctx, id); err != nil {
		return err
	}
	for _, p := range c.Pools.All() {
		if p.Storage == nil {
			continue
		}
		e, err := p.Storage.Stat(ctx, id)
		if errors.Is(err, dataset.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if err := p.CheckServed(); err != nil {
			return err
		}
		unlock, err := c.Locks.Lock(ctx, id, "gc of dataset "+id.String())
		if err != nil {
			return err
		}
		defer unlock()
		// The previous holder of the lock may have recorded the dataset.
		if err := c.checkCollectable(ctx, id); err != nil {
			return err
		}
		if e.State != backends.EntryCopy {
			if err := c.Datasets.EnsureUnrecorded(ctx, id); err != nil {
				return err
			}
		}
		d := dataset.Dataset{ID: id, Volume: id.String(), Pool: p.ID}
		if err := c.Verifier.EnsureUnused(ctx, d, "destroy"); err != nil {
			return err
		}
		c.Log.WithFields(map[string]any{"pool": p.Name, "dataset": id}).
			Warn("destroyed quarantined data, as requested")
		if err := p.Storage.Delete(ctx, id); err != nil {
			return err
		}
		c.Cache.Remove(id)
		return nil
	}
	return dataset.Errorf(dataset.ErrNotFound, "no dataset %s in any pool of this node", id)
}

// collectTrial removes the remains of a drover backend verify that have this UUID, and reports whether there are any.
func (c *Collector) collectTrial(ctx context.Context, id uuid.UUID) (found bool, err error) {
	for _, p := range c.Pools.All() {
		if p.Storage == nil {
			continue
		}
		list, err := trialdir.Find(p.Storage.Info().Path)
		i := slices.IndexFunc(list, func(l trialdir.Found) bool { return l.ID == id })
		if err != nil || i < 0 {
			continue
		}
		if err := p.CheckServed(); err != nil {
			return true, err
		}
		c.Log.WithFields(map[string]any{"pool": p.Name, "path": list[i].Path}).
			Warn("removed the remains of a verification, as requested")
		return true, trialdir.Remove(ctx, c.Backends, list[i])
	}
	return false, nil
}

// checkCollectable fails unless it is certain that no record of a dataset exists.
func (c *Collector) checkCollectable(ctx context.Context, id uuid.UUID) error {
	if err := c.Trust.Err(); err != nil {
		return fmt.Errorf("dataset %s: %w", id, err)
	}
	known, _, err := c.Datasets.Recorded(ctx)
	if err != nil {
		return err
	}
	if _, ok := known[id]; ok {
		return dataset.Errorf(dataset.ErrExists,
			"dataset %s is in the store: destroy it with drover volume rm, then drover trash purge", id)
	}
	if c.Copies.IsRecorded(id) {
		return dataset.Errorf(dataset.ErrExists,
			"dataset %s is a recorded copy of a dataset whose home is another node (for a superseded copy: "+
				"drover volume superseded discard)", id)
	}
	return nil
}
