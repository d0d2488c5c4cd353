package controlsync

import (
	"context"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// TrashedDataset is a deleted dataset that is kept on this node.
type TrashedDataset struct {
	Volume string // the name of the volume before its deletion
	Used   dataset.Size
	Known  bool // Used is known
}

// TrashReader reads how much the trash of this node uses. Nothing is written to a deleted dataset, so each one is
// measured once. Its methods are safe for concurrent use.
type TrashReader struct {
	*Sync

	mu   sync.Mutex
	used map[measured]dataset.Size
}

// measured is the key of a measurement: a dataset, and the last request that changed it. A later change has another
// request, so the earlier measurement no longer applies.
type measured struct{ dataset, request uuid.UUID }

// maxMeasured bounds the datasets that one call measures, because a backend may start a program for each.
const maxMeasured = 100

// Read returns the deleted datasets of this node and how much they use. The use of a dataset is not known if the
// backend would have to walk through all its files, if the pool does not answer, or if many other datasets were deleted
// just now.
func (t *TrashReader) Read(ctx context.Context) (out []TrashedDataset) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before, left := t.used, maxMeasured
	t.used = map[measured]dataset.Size{}
	for _, id := range t.Cache.IDs() {
		d, ok := t.Cache.Dataset(id)
		if !ok || d.State != dataset.StateTrashed || d.Home != t.NodeID {
			continue
		}
		key := measured{id, d.Request}
		used, known := before[key]
		if !known && left > 0 && ctx.Err() == nil {
			used, known = t.Pools.Used(ctx, d)
			left--
		}
		if known {
			t.used[key] = used
		}
		out = append(out, TrashedDataset{d.Volume, used, known})
	}
	return out
}
