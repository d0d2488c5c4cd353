package move

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// The log of a node without a recorded copy is kept for as long as the data of a failed move; that of a node with a
// copy, until it has none.
func TestSentLogForgets(t *testing.T) {
	var h SentLog
	copied, moved := uuid.New(), uuid.New()
	d := dataset.Dataset{ID: uuid.New(), Copies: []uuid.UUID{copied}}
	for _, node := range []uuid.UUID{copied, moved} {
		h.Record(d, backends.Entry{}, node, dataset.Snapshot{}, dataset.Snapshot{}, time.Hour)
	}
	for _, c := range []struct {
		copies []uuid.UUID
		now    time.Duration
		others []uuid.UUID
		known  int
	}{
		{d.Copies, time.Hour + KeepFailed - 1, []uuid.UUID{moved}, 2},
		{nil, time.Hour, []uuid.UUID{moved}, 1},
		{nil, time.Hour + KeepFailed, nil, 0},
	} {
		if got := h.nodesWithoutCopy(d.ID, c.copies, c.now); !slices.Equal(got, c.others) || len(h.byDataset[d.ID]) != c.known {
			t.Errorf("copies %v, after %s: others %v, known of %d", c.copies, c.now, got, len(h.byDataset[d.ID]))
		}
	}
	h.Record(d, backends.Entry{}, copied, dataset.Snapshot{}, dataset.Snapshot{}, 0)
	h.Forget(d.ID)
	if len(h.byDataset) > 0 {
		t.Error("it is known still when the dataset has left")
	}
}
