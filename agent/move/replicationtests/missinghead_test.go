package replication_test

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// lying is a pool with one entry.
type lying struct {
	backends.Pool
	e backends.Entry
}

func (l lying) Stat(context.Context, uuid.UUID) (backends.Entry, error) { return l.e, nil }

// deletes records what is deleted from a pool with one entry.
type deletes struct {
	lying
	n *int
}

func (d deletes) DeleteSnapshot(context.Context, uuid.UUID, uuid.UUID) error {
	*d.n++
	return nil
}

// According to a store, which may have been restored from a backup, this node is the home of a dataset, but it has no
// head. It removes nothing of the data that it has: that may be the last data of the dataset.
func TestI3HomeWithoutAHeadRemovesNothing(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	for _, c := range []struct {
		e    backends.Entry
		want int
	}{
		{backends.Entry{State: backends.EntryCopy}, 0},
		{backends.Entry{State: backends.EntryCopy, Promoted: true}, 1},
		{backends.Entry{State: backends.EntryReady}, 1},
	} {
		c.e.Snapshots = []dataset.Snapshot{{ID: uuid.New(), Dataset: d.ID, Kind: dataset.SnapshotTransfer, Request: uuid.New(), Epoch: 1, Created: r.Clock.Now()}}
		n := 0
		if err := r.Retention.Prune(t.Context(), deletes{lying{e: c.e}, &n}, d); err != nil || n != c.want {
			t.Errorf("%s, promoted %t: %d removed, %v", c.e.State, c.e.Promoted, n, err)
		}
	}
}
