package replication_test

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// lying is a pool in which one entry lies.
type lying struct {
	backends.Pool
	e backends.Entry
}

func (l lying) Stat(context.Context, uuid.UUID) (backends.Entry, error) { return l.e, nil }

// deletes counts what is taken from a pool in which one entry lies.
type deletes struct {
	lying
	n *int
}

func (d deletes) DeleteSnapshot(context.Context, uuid.UUID, uuid.UUID) error {
	*d.n++
	return nil
}

// A home on record that has no head, as a store may say that was put back, removes nothing of
// what lies there: it may be the last of the dataset.
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
