package agent

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// lying is a pool in which one entry lies.
type lying struct {
	backends.Pool
	e backends.Entry
}

func (l lying) Stat(context.Context, uuid.UUID) (backends.Entry, error) { return l.e, nil }

// What lies in a pool is told of as a replica after a start only where that was on record:
// the home would not ask this node for its promise because of what a move or an earlier copy
// has left, and it would be gone on from.
func TestI1RecollectsWhatWasOnRecord(t *testing.T) {
	r := newRig(t)
	for _, recorded := range []bool{false, true} {
		s := dataset.Snapshot{ID: uuid.New(), Dataset: uuid.New(), Kind: dataset.SnapshotTransfer, Epoch: 1, Created: r.Clock.Now()}
		pool := lying{e: backends.Entry{State: backends.EntryCopy, Snapshots: []dataset.Snapshot{s}}}
		k := api.Kept{Copy: dataset.Copy{Dataset: s.Dataset, Node: r.Node(), Kind: dataset.CopyReplica}}
		if recorded {
			k.Snapshot = uuid.New()
		}
		r.copiesFresh.mu.Lock()
		r.copiesFresh.of[s.Dataset] = &replica{}
		r.copiesFresh.mu.Unlock()
		if err := r.recollect(t.Context(), pool, k); err != nil {
			t.Fatal(err)
		}
		if c, told := r.replicaOf(s.Dataset); told != recorded || told && c.Snapshot != s.ID {
			t.Errorf("on record %t: told of %+v", recorded, c)
		}
	}
}
