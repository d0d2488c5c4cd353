package operation

import (
	"context"
	"time"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// measureTime bounds the measurement of a snapshot.
const measureTime = 5 * time.Second

// SnapshotSpace returns how many bytes the deletion of a snapshot would free: those that only this snapshot uses. It
// fails with dataset.ErrUnsupported if the pool does not know that number, with ErrNotFound if the dataset is not on
// this node, and with ErrUnavailable if the measurement takes longer than measureTime.
func (o *Operations) SnapshotSpace(ctx context.Context, ref string) (out api.SnapshotSpace, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, measureTime, dataset.Errorf(dataset.ErrUnavailable,
		"the snapshot has too many extents to count them within %s", measureTime))
	defer cancel()
	s, err := o.Control.Snapshot(ctx, "", ref)
	if err != nil {
		return out, err
	}
	d, ok := o.Cache.Dataset(s.Dataset)
	if !ok {
		return out, dataset.Errorf(dataset.ErrNotFound, "dataset %s is not on this node", s.Dataset)
	}
	pool, err := o.Pools.Online(ctx, d.Pool)
	if err != nil {
		return out, err
	}
	m, ok := pool.(backends.SnapshotMeasurer)
	if !ok {
		return out, dataset.Errorf(dataset.ErrUnsupported,
			"volume %s: its pool does not know which bytes only one snapshot uses", d.Volume)
	}
	size, err := m.UniqueSize(ctx, d.ID, s.ID)
	return api.SnapshotSpace{Snapshot: s.ID, Unique: size}, err
}

// ReadUsage returns how many bytes a dataset occupies in its pool, and how full it is. It walks no files. seen is the
// usage of its filesystem as df shows it, or nil if that is not known. The usage is nil if the pool knows no limit of
// the dataset. It is also nil if the dataset has a filesystem that is not mounted, because an allocated block of the
// device may be free in the filesystem.
func ReadUsage(ctx context.Context, b backends.Pool, d dataset.Dataset, seen *dataset.Usage) (
	inPool dataset.Size, usage *dataset.Usage, err error) {
	own := b.Info().Capabilities.OwnFilesystem
	inPool, err = b.Used(ctx, d.ID)
	if own && seen != nil {
		return inPool, seen, err
	}
	if err != nil || d.Size <= 0 || own && d.Profile.Filesystem.Type != "" {
		return inPool, nil, err
	}
	if seen != nil && seen.Used+seen.Available <= d.Size {
		// With project quotas, the kernel shows the limit of the directory as the size of the filesystem. Leave out the
		// inodes, which are those of the whole pool.
		return inPool, &dataset.Usage{Used: seen.Used, Available: seen.Available}, nil
	}
	data := min(inPool, d.Size)
	return inPool, &dataset.Usage{Used: data, Available: d.Size - data}, nil
}

// SetUsed sets in a status how many bytes a dataset occupies in its pool, and how many its files use. usage is how full
// it is, or was when it was last mounted. If the dataset shares the filesystem of its pool, both figures mean the same.
func SetUsed(st *dataset.DatasetStatus, inPool dataset.Size, usage *dataset.Usage, ownFilesystem bool) {
	st.InPool, st.Usage = &inPool, usage
	switch {
	case usage != nil:
		st.Used = &usage.Used
	case !ownFilesystem:
		st.Used = &inPool
	}
}
