package pool

import (
	"context"
	"errors"
	"reflect"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// PendingPrefix is the key prefix for the records of pools that are being made on request. Such a record is written
// before the backend changes anything, and removed when the pool itself is recorded.
const PendingPrefix = "making/"

// Make makes a pool and records it. If the record has no UUID, a pool that already exists at the path is used: an
// earlier first start may have been interrupted, or this node may have lost its record of the pool. If the record has
// a UUID, the pool is new: see recordIntent.
func (t *Pools) Make(ctx context.Context, name string, rec Record) (*Pool, error) {
	kind, err := t.Backends.Kind(rec.Backend)
	if err != nil {
		return nil, err
	}
	if err := kind.Available(ctx); err != nil {
		return nil, WithPoolName(name, err)
	}
	if err := t.CheckDevices(ctx, name, rec, kind); err != nil {
		return nil, err
	}
	if err := t.checkNotInOtherPool(rec); err != nil {
		return nil, WithPoolName(name, err)
	}
	if err := t.checkDisjoint(name, rec); err != nil {
		return nil, err
	}
	if err := t.checkPlace(name, rec); err != nil {
		return nil, err
	}
	if rec.ID != uuid.Nil {
		if err := t.recordIntent(ctx, name, &rec); err != nil {
			return nil, err
		}
	}
	cfg := rec.Config(name, t.Keys, t.MountRoot())
	cfg.Make = true
	b, err := kind.Open(ctx, cfg)
	if err != nil {
		return nil, WithPoolName(name, t.withDeviceOwner(rec, err))
	}
	found := rec.ID == uuid.Nil
	rec.ID, rec.Share, rec.Unexamined = b.ID(), b.Info().Share, found
	rec.OvercommitUnknown = found && rec.Overcommit == 0
	if len(rec.Devices) > 0 {
		rec.Trimmed = t.Clock.Now() // mkfs has discarded the free blocks
	}
	// checkUnique must come before Lock. If this pool is a copy of an open one, both have the same ID, and the Unlock
	// after an error would release the lock of the open one.
	if err := t.checkUnique(rec.ID, name); err != nil {
		return nil, errors.Join(WithPoolName(name, err), b.Close())
	}
	whyUnlocked, err := t.PoolLocks.Lock(ctx, b)
	if err != nil {
		return nil, errors.Join(WithPoolName(name, err), b.Close())
	}
	generation, err := b.Generation()
	if err == nil {
		err = t.DB.Put(ctx, map[string]any{"pools/" + name: rec, PendingPrefix + name: nil})
	}
	if err != nil {
		return nil, errors.Join(WithPoolName(name, err), b.Close(), t.PoolLocks.Unlock(rec.ID))
	}
	t.warnNotLocked(name, whyUnlocked)
	p := t.UnopenedPool(name, rec)
	p.Storage, p.LockProblem, p.Generation, p.RaiseSoon, p.RaisedAt = b, whyUnlocked, generation, true, t.Clock.Steady()
	p.setInfo(t.capabilities(b), b.Info())
	t.Add(p)
	t.SyncPolicy(ctx, rec.ID)
	t.Log.WithFields(map[string]any{"pool": name, "backend": rec.Backend, "path": rec.Path}).
		Info("pool is ready: " + p.Note)
	return p, nil
}

// recordIntent records that a pool is about to be made. If an earlier attempt to make the same pool under the same
// name was interrupted, recordIntent sets rec.ID to the UUID of that attempt. The disks may have that UUID already,
// and the backend would refuse to make a pool with another UUID on them.
func (t *Pools) recordIntent(ctx context.Context, name string, rec *Record) error {
	var begun Record
	if _, err := t.DB.Get(ctx, PendingPrefix+name, &begun); err != nil {
		return err
	}
	want := *rec
	want.ID = begun.ID
	if slices.Equal(want.Devices, begun.Devices) {
		want.Devices = begun.Devices // so that an empty and a nil list compare as equal
	}
	if reflect.DeepEqual(begun, want) {
		rec.ID = begun.ID
		return nil
	}
	return t.DB.Put(ctx, map[string]any{PendingPrefix + name: rec})
}

// checkUnique fails with dataset.ErrExists if this node already has the pool, or a copy of it, under another name.
func (t *Pools) checkUnique(id uuid.UUID, name string) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if o := t.byID[id]; o != nil && !o.Gone && o.Name != name {
		return dataset.Errorf(dataset.ErrExists, "this is pool %s (at %s), or a copy of it", o.Name,
			o.Record.Path)
	}
	return nil
}

// checkDisjoint fails if the pool is inside the path of another pool, or contains it, or if its name is used.
func (t *Pools) checkDisjoint(name string, rec Record) error {
	if err := t.checkUnclaimed(name); err != nil {
		return err
	}
	all := t.All()
	for _, o := range all {
		if o.Name == name {
			return dataset.Errorf(dataset.ErrExists, "pool %s exists (backend %s at %s)", name, o.Record.Backend,
				o.Record.Path)
		}
	}
	for _, o := range all {
		if Overlap(rec, o.Record) {
			return dataset.Errorf(dataset.ErrInvalid,
				"pool %s: %s overlaps with pool %s at %s: choose a path outside of it", name, rec.Path, o.Name,
				o.Record.Path)
		}
	}
	return nil
}

// addFailed records that a pool of drover.yaml could be neither found nor made. The pool is shown as offline, and the
// other pools are served. Drover tries again only at its next start, because the operator may still be repairing the
// disk.
func (t *Pools) addFailed(c Config, why error) {
	t.Log.WithFields(map[string]any{"pool": c.Name, "backend": c.Backend, "error": why}).
		Error("pool of drover.yaml is offline: creating it failed")
	t.Failed = append(t.Failed, api.Pool{
		Pool: dataset.Pool{
			Name:    c.Name,
			Node:    t.NodeID,
			Backend: c.Backend,
			Path:    t.newRecord(c).Path,
			Devices: c.Devices,
			Reach:   dataset.ReachNode,
		},
		Status: &dataset.PoolStatus{
			Reason: dataset.Cut(WithoutPoolName(c.Name, why) + " (creating it failed; fix that and restart drover)"),
		},
	})
}

// checkUnclaimed fails if drover.yaml defines a pool with this name that could not be made.
func (t *Pools) checkUnclaimed(name string) error {
	for _, u := range t.Failed {
		if u.Name == name {
			return dataset.Errorf(dataset.ErrExists, "pool %s of drover.yaml is offline: %s", name,
				u.Status.Reason)
		}
	}
	return nil
}

// newRecord returns the record of a pool of drover.yaml that this node has not recorded yet.
func (t *Pools) newRecord(c Config) Record {
	rec := Record{Backend: c.Backend, Path: c.Path, Image: c.Image, Devices: c.Devices}.withOvercommit(c.Overcommit)
	t.SetPlace(c.Name, &rec)
	return rec
}
