package operation

import (
	"context"
	"fmt"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
)

// Sizes resizes datasets. If the resize of a dataset that has moved here fails, Sizes records it and tries again later.
// Its methods are safe for concurrent use.
type Sizes struct {
	*Operations
	deferred *host.Table[DeferredResize]
}

// DeferredResize is a resize that failed and is tried again. It is needed if the head of a dataset was made of a
// snapshot whose size differs from the recorded size of the dataset. The record stays on disk until the resize
// succeeds, because no user would repeat the request for a size that is already recorded.
type DeferredResize struct {
	Actual dataset.Size `json:"was"` // the actual size, or 0 if it is not known
	Why    string       `json:"why"`
}

// Load reads the deferred resizes from disk.
func (z *Sizes) Load(ctx context.Context) error { return z.deferred.Load(ctx) }

// Defer records a resize that failed.
func (z *Sizes) Defer(ctx context.Context, id uuid.UUID, u DeferredResize) error {
	u.Why = dataset.Cut(u.Why)
	if was, known := z.Deferred(id); known && was == u {
		return nil
	}
	if err := z.deferred.Set(ctx, id, u); err != nil {
		return err
	}
	z.News.Changed(id)
	return nil
}

// drop forgets the deferred resize of a dataset, if there is one.
func (z *Sizes) drop(ctx context.Context, id uuid.UUID) error {
	if _, known := z.Deferred(id); !known {
		return nil
	}
	if err := z.deferred.Drop(ctx, id); err != nil {
		return err
	}
	z.News.Changed(id)
	return nil
}

// Deferred returns the deferred resize of a dataset, and whether there is one.
func (z *Sizes) Deferred(id uuid.UUID) (DeferredResize, bool) { return z.deferred.Get(id) }

// Problem says that a dataset does not have its recorded size. It is empty if no resize is deferred.
func (z *Sizes) Problem(d dataset.Dataset) string {
	u, known := z.Deferred(d.ID)
	if !known {
		return ""
	}
	was := ""
	if u.Actual != 0 {
		was = " and may still have " + u.Actual.String()
	}
	return fmt.Sprintf("its size was not set to %s when it moved here%s: %s; retrying automatically",
		d.Size, was, u.Why)
}

// ResizeAsRecorded gives a new head the recorded size of its volume. The argument "of" is the snapshot from which the
// head was made. The volume may have been resized after that snapshot was taken. If the resize fails, it is deferred,
// and the volume is still usable. ResizeAsRecorded returns an error only if it cannot record the deferred resize.
func (z *Sizes) ResizeAsRecorded(ctx context.Context, pool backends.Pool, d dataset.Dataset, of uuid.UUID) error {
	if _, can := pool.(backends.Resizer); !can {
		return nil
	}
	var u DeferredResize
	e, err := pool.Stat(ctx, d.ID)
	if err == nil {
		i := host.IndexOf(e, of)
		if i < 0 || e.Snapshots[i].Size == d.Size {
			return nil
		}
		u.Actual = e.Snapshots[i].Size
		err = z.Resize(ctx, pool, d.ID, d.Size)
	}
	if err != nil {
		u.Why = err.Error()
		return z.Defer(context.WithoutCancel(ctx), d.ID, u)
	}
	return nil
}

// WithActualSize returns the record s of a new snapshot with its actual size. If a resize of the dataset is deferred,
// the actual size differs from the recorded one. An actual size of 0 is unknown. A volume that continues from the
// snapshot relies on the actual size.
func (z *Sizes) WithActualSize(s dataset.Snapshot) dataset.Snapshot {
	if u, known := z.Deferred(s.Dataset); known {
		s.Size = u.Actual
	}
	return s
}

// Retry tries all deferred resizes again.
func (z *Sizes) Retry(ctx context.Context) {
	if !z.Membership.HasJoined() { // control has not said yet which of the datasets have their home here
		return
	}
	for id, u := range z.deferred.All() {
		if err := z.retry(ctx, id, u); err != nil && ctx.Err() == nil {
			log := z.Log.WithError(err).WithField("dataset", id)
			log.Error("it may be smaller than its recorded size; retrying")
		}
	}
}

// retry tries the deferred resize of a dataset again.
func (z *Sizes) retry(ctx context.Context, id uuid.UUID, u DeferredResize) error {
	unlock, err := z.Locks.Lock(ctx, id, "resize")
	if err != nil {
		return err
	}
	defer unlock()
	d, home := z.Cache.Dataset(id)
	switch {
	case !home && z.Trust.Err() != nil:
		return nil
	case !home || d.State == dataset.StatePurging:
		return z.drop(ctx, id)
	case z.Leases.MayChange(d, "resize") != nil:
		return nil // a relinquished dataset must not change; the resize is tried again if the move fails
	}
	pool, err := z.Pools.Online(ctx, d.Pool)
	if err == nil {
		err = z.Resize(ctx, pool, id, d.Size)
	}
	if err != nil {
		u.Why = err.Error()
		return z.Defer(ctx, id, u)
	}
	return nil
}

// Resize gives a dataset a size, whether it is mounted or not. The caller holds its lock.
func (z *Sizes) Resize(ctx context.Context, pool backends.Pool, id uuid.UUID, size dataset.Size) error {
	r, can := pool.(backends.Resizer)
	if !can {
		return dataset.Errorf(dataset.ErrUnsupported, "its pool cannot enforce a size")
	}
	var root *os.File
	mounted, err := host.IsMountPoint(z.MountPath(id))
	if err == nil && mounted {
		if root, err = os.Open(z.MountPath(id)); err == nil {
			defer root.Close()
		}
	}
	if err != nil {
		return err
	}
	if err := r.Resize(ctx, id, size, root); err != nil {
		return err
	}
	return z.drop(context.WithoutCancel(ctx), id)
}

// Check reports the volumes that do not have their recorded size.
func (z *Sizes) Check(r *condition.List) {
	for _, id := range z.Cache.IDs() {
		d, _ := z.Cache.Dataset(id)
		if why := z.Problem(d); why != "" {
			r.Add(condition.VolumeSizeDiffers, "volume "+d.Volume, "", why)
		}
	}
}
