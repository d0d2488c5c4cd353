package host

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// A snapshot is taken for all replicas if there are several, rarely, and never for a move.
func TestTakenFor(t *testing.T) {
	x, y := uuid.New(), uuid.New()
	now := time.Now()
	d := dataset.Dataset{Copies: []uuid.UUID{x, y}, Epoch: 3}
	d.Profile.Replicas.Every = dataset.Duration(time.Minute)
	with := func(change func(*dataset.Dataset)) dataset.Dataset {
		out := d
		change(&out)
		return out
	}
	took := func(age time.Duration, epoch uint64) backends.Entry {
		return backends.Entry{Snapshots: []dataset.Snapshot{{Kind: dataset.SnapshotTransfer, Epoch: epoch, Created: now.Add(-age)}}}
	}
	for name, c := range map[string]struct {
		d     dataset.Dataset
		e     backends.Entry
		node  uuid.UUID
		alone bool
	}{
		"none was":               {d: d, node: x},
		"one was lately":         {d: d, e: took(time.Minute, 3), node: x, alone: true},
		"one was long ago":       {d: d, e: took(4*time.Minute, 3), node: x},
		"the clock was set back": {d: d, e: took(-time.Hour, 3), node: x},
		"by an earlier home":     {d: d, e: took(time.Minute, 2), node: x},
		"for no replica":         {d: d, node: uuid.New(), alone: true},
		"the only one":           {d: with(func(d *dataset.Dataset) { d.SupersededCopies = []uuid.UUID{y} }), node: x, alone: true},
		"it moves":               {d: with(func(d *dataset.Dataset) { d.Move = uuid.New() }), node: x, alone: true},
	} {
		want := uuid.Nil
		if c.alone {
			want = c.node
		}
		if got := SnapshotRecipient(c.d, c.e, c.node, now); got != want {
			t.Errorf("%s: it is taken for %s", name, got)
		}
	}
}
