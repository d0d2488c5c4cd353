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
