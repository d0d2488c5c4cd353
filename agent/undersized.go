package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lineage"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// undersized is of a dataset whose head was made of a snapshot with another size than it is of on
// record, and could not be resized then. It is on disk until that was done: nobody asks for a
// resize to the size that is on record.
type undersized struct {
	Was dataset.Size `json:"was"` // 0: it is not known
	Why string       `json:"why"`
}

func (a *Agent) loadUndersized(ctx context.Context) error {
	return a.DB.Each(ctx, "undersized/", func(rest string, v []byte) error {
		id, err := uuid.Parse(rest)
		if err != nil {
			return err
		}
		var u undersized
		if err := json.Unmarshal(v, &u); err != nil {
			return err
		}
		a.undersized[id] = u
		return nil
	})
}

func (a *Agent) setUndersized(ctx context.Context, id uuid.UUID, u undersized) error {
	u.Why = dataset.Cut(u.Why)
	if was, known := a.isUndersized(id); known && was == u {
		return nil
	}
	if err := a.DB.Put(ctx, map[string]any{"undersized/" + id.String(): u}); err != nil {
		return err
	}
	a.mu.Lock()
	a.undersized[id] = u
	a.mu.Unlock()
	a.News.Changed(id)
	return nil
}

func (a *Agent) dropUndersized(ctx context.Context, id uuid.UUID) error {
	if _, known := a.isUndersized(id); !known {
		return nil
	}
	if err := a.DB.Put(ctx, map[string]any{"undersized/" + id.String(): nil}); err != nil {
		return err
	}
	a.mu.Lock()
	delete(a.undersized, id)
	a.mu.Unlock()
	a.News.Changed(id)
	return nil
}

func (a *Agent) isUndersized(id uuid.UUID) (undersized, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	u, known := a.undersized[id]
	return u, known
}

// misSized says that a dataset is not of its size; empty: it is, as far as is known.
func (a *Agent) misSized(d dataset.Dataset) string {
	u, known := a.isUndersized(d.ID)
	if !known {
		return ""
	}
	was := ""
	if u.Was != 0 {
		was = " and may still have " + u.Was.String()
	}
	return fmt.Sprintf("it was not given its size of %s when it moved here%s: %s; that is tried again by itself", d.Size, was, u.Why)
}

// sizeAsRecorded gives a head, which was made of a snapshot that is older than the volume's size, that
// size. Where that fails the volume is of use all the same, and it is tried again: an error is that
// even this could not be noted.
func (a *Agent) sizeAsRecorded(ctx context.Context, pool backends.Pool, d dataset.Dataset, of uuid.UUID) error {
	if _, can := pool.(backends.Resizer); !can {
		return nil
	}
	var u undersized
	e, err := pool.Stat(ctx, d.ID)
	if err == nil {
		i := lineage.IndexOf(e, of)
		if i < 0 || e.Snapshots[i].Size == d.Size {
			return nil
		}
		u.Was = e.Snapshots[i].Size
		err = a.resize(ctx, pool, d.ID, d.Size)
	}
	if err != nil {
		u.Why = err.Error()
		return a.setUndersized(context.WithoutCancel(ctx), d.ID, u)
	}
	return nil
}

// asLarge returns the record of a snapshot that is taken now, with the size that its dataset has and
// not the one on record where that was not given yet: whoever goes on from it goes by this. 0: it is
// not known.
func (a *Agent) asLarge(s dataset.Snapshot) dataset.Snapshot {
	if u, known := a.isUndersized(s.Dataset); known {
		s.Size = u.Was
	}
	return s
}

// sizeAgain resizes what could not be when it moved here.
func (a *Agent) sizeAgain(ctx context.Context) {
	select {
	case <-a.isIn:
	default: // what of it is home here still, or already, control has not said yet
		return
	}
	a.mu.Lock()
	all := maps.Clone(a.undersized)
	a.mu.Unlock()
	for id, u := range all {
		if err := a.sizeOne(ctx, id, u); err != nil && ctx.Err() == nil {
			a.Log.WithError(err).WithField("dataset", id).Error("it may not be as large as it is on record; that is tried again")
		}
	}
}

func (a *Agent) sizeOne(ctx context.Context, id uuid.UUID, u undersized) error {
	unlock, err := a.Locks.Lock(ctx, id, "resize")
	if err != nil {
		return err
	}
	defer unlock()
	d, home := a.Cache.Dataset(id)
	switch {
	case !home && a.Trust.Err() != nil:
		return nil
	case !home || d.State == dataset.StatePurging:
		return a.dropUndersized(ctx, id)
	case a.leases.MayChange(d, "resize") != nil:
		return nil // what was given up is as it is; when the move ends in vain it is tried again
	}
	pool, err := a.pools.Online(ctx, d.Pool)
	if err == nil {
		err = a.resize(ctx, pool, id, d.Size)
	}
	if err != nil {
		u.Why = err.Error()
		return a.setUndersized(ctx, id, u)
	}
	return nil
}

// resize gives a dataset a size, mounted or not. Its lock is held.
func (a *Agent) resize(ctx context.Context, pool backends.Pool, id uuid.UUID, size dataset.Size) error {
	r, can := pool.(backends.Resizer)
	if !can {
		return dataset.Errorf(dataset.ErrUnsupported, "its pool cannot enforce a size")
	}
	var root *os.File
	mounted, err := host.IsMountPoint(a.MountPath(id))
	if err == nil && mounted {
		if root, err = os.Open(a.MountPath(id)); err == nil {
			defer root.Close()
		}
	}
	if err != nil {
		return err
	}
	if err := r.Resize(ctx, id, size, root); err != nil {
		return err
	}
	return a.dropUndersized(context.WithoutCancel(ctx), id)
}

// checkSizes names what is not of its size.
func (a *Agent) checkSizes(r *diagnosis) {
	for _, id := range a.Cache.IDs() {
		d, _ := a.Cache.Dataset(id)
		if why := a.misSized(d); why != "" {
			r.Add(findings.Error, "volume "+d.Volume, "", "%s", why)
		}
	}
}
