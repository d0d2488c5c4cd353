package pooladmin

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Collect destroys a dataset in a pool of this node if control's store has no record of the dataset. It fails with
// ErrConflict while the store is inconsistent: then the record may exist, and only be missing in the store. A dry run
// destroys nothing, and fails if Collect would fail.
func (a *Admin) Collect(ctx context.Context, id uuid.UUID, dryRun bool) (out api.Collected, err error) {
	if out, found, err := a.collectTrial(ctx, id, dryRun); found {
		return out, err
	}
	if err := a.checkCollectable(ctx, id); err != nil {
		return out, err
	}
	for _, p := range a.Pools.All() {
		if p.Storage == nil {
			continue
		}
		e, err := p.Storage.Stat(ctx, id)
		if errors.Is(err, dataset.ErrNotFound) {
			continue
		}
		if err != nil {
			return out, err
		}
		out = api.Collected{Dataset: id, Pool: p.Name, Path: e.Path, Snapshots: len(e.Snapshots)}
		if e.Record != nil {
			out.Volume = e.Record.Volume
		}
		if err := p.CheckServed(); err != nil {
			return out, err
		}
		return out, a.destroy(ctx, p, e, dryRun)
	}
	return out, dataset.Errorf(dataset.ErrNotFound, "no dataset %s in any pool of this node", id)
}

// destroy destroys an entry of a pool that control has no record of. A dry run only checks whether destroy would fail.
func (a *Admin) destroy(ctx context.Context, p *pool.Pool, e backends.Entry, dryRun bool) error {
	d := dataset.Dataset{ID: e.ID, Volume: e.ID.String(), Pool: p.ID}
	if !dryRun {
		unlock, err := a.Locks.Lock(ctx, e.ID, "gc of dataset "+e.ID.String())
		if err != nil {
			return err
		}
		defer unlock()
		// The previous holder of the lock may have recorded the dataset.
		if err := a.checkCollectable(ctx, e.ID); err != nil {
			return err
		}
	}
	if e.State != backends.EntryCopy {
		if err := a.EnsureUnrecorded(ctx, e.ID); err != nil {
			return err
		}
	}
	if dryRun {
		return a.Verifier.CheckUnmounted(ctx, d)
	}
	if err := a.Verifier.EnsureUnused(ctx, d, "destroy"); err != nil {
		return err
	}
	log := a.Log.WithFields(map[string]any{"pool": p.Name, "dataset": e.ID})
	log.Warn("destroying quarantined data, as requested")
	if err := p.Storage.Delete(ctx, e.ID); err != nil {
		return err
	}
	log.Warn("destroyed quarantined data, as requested")
	a.Cache.Remove(e.ID)
	return nil
}

// collectTrial removes the remains of a drover backend verify that have this UUID, and reports whether there are any.
func (a *Admin) collectTrial(ctx context.Context, id uuid.UUID, dryRun bool) (out api.Collected, found bool,
	err error) {
	for _, p := range a.Pools.All() {
		if p.Storage == nil {
			continue
		}
		list, err := trialdir.Find(p.Storage.Info().Path)
		i := slices.IndexFunc(list, func(l trialdir.FoundFolder) bool { return l.ID == id })
		if err != nil || i < 0 {
			continue
		}
		out = api.Collected{Dataset: id, Pool: p.Name, Path: list[i].Path}
		if err := p.CheckServed(); err != nil || dryRun {
			return out, true, err
		}
		if err := trialdir.Remove(ctx, a.Pools.Backends, list[i]); err != nil {
			return out, true, err
		}
		a.Log.WithFields(map[string]any{"pool": p.Name, "path": list[i].Path}).
			Warn("removed the remains of a verification, as requested")
		return out, true, nil
	}
	return out, false, nil
}

// checkCollectable fails unless it is certain that no record of a dataset exists.
func (a *Admin) checkCollectable(ctx context.Context, id uuid.UUID) error {
	if err := a.Trust.Err(); err != nil {
		return fmt.Errorf("dataset %s: %w", id, err)
	}
	known, halted, err := a.Recorded(ctx)
	if err != nil {
		return err
	}
	if halted != "" { // control or another node says so, and this node may not have noticed
		return dataset.Errorf(dataset.ErrConflict, "dataset %s: store inconsistent; changes suspended: %s (%s)", id,
			halted, a.Trust.Remedy())
	}
	if _, ok := known[id]; ok {
		return dataset.Errorf(dataset.ErrExists,
			"dataset %s is in the store, and is no garbage (drover volume inspect, drover trash ls)", id)
	}
	if a.Copies.IsRecorded(id) {
		return dataset.Errorf(dataset.ErrExists,
			"dataset %s is a recorded copy of a dataset whose home is another node (for a superseded copy: "+
				"drover copy mount shows it)", id)
	}
	return nil
}
