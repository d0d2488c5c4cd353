package dataset

import (
	"testing"
	"time"

	"github.com/google/uuid"
)

var noon = time.Date(2026, 11, 18, 12, 0, 0, 0, time.UTC)

// A new snapshot is later than the others of its epoch, even if the clock was set back. Snapshots of other epochs do
// not count, because their homes have other clocks.
func TestTakenAfter(t *testing.T) {
	later := noon.Add(time.Hour)
	for epoch, want := range map[uint64]Moment{2: {3, noon}, 3: {3, later.Add(1)}, 4: {3, noon}} {
		others := []Snapshot{{ID: uuid.New(), Epoch: epoch, Created: later}}
		if got := (Snapshot{Epoch: 3}).TakenAfter(others, noon).At(); got.Compare(want) != 0 {
			t.Errorf("after one of epoch %d: %v, want %v", epoch, got, want)
		}
	}
}

// A snapshot is part of a loss if it is later than the moment from which the dataset continues, and if its epoch ended
// with the loss or earlier.
func TestLossOf(t *testing.T) {
	l := Loss{Epoch: 2, Taken: noon, EndedEpoch: 3}
	for _, c := range []struct {
		epoch uint64
		at    time.Time
		want  bool
	}{
		{1, noon.Add(time.Hour), false},
		{2, noon, false},
		{2, noon.Add(1), true},
		{3, noon.Add(-time.Hour), true},
		{4, noon.Add(time.Hour), false},
	} {
		if got := l.Includes(Snapshot{ID: uuid.New(), Epoch: c.epoch, Created: c.at}); got != c.want {
			t.Errorf("epoch %d, %s: lost %t", c.epoch, c.at, got)
		}
	}
}

// The store records the first complete snapshot of a copy and each new epoch, and otherwise one state in each period.
func TestMustRecord(t *testing.T) {
	was := Copy{Snapshot: uuid.New(), Epoch: 2, Taken: noon}
	for name, c := range map[string]struct {
		was, is Copy
		want    bool
	}{
		"the first":     {Copy{Epoch: 2, Taken: noon}, was, true},
		"a new epoch":   {was, Copy{Epoch: 3, Taken: noon}, true},
		"soon after":    {was, Copy{Epoch: 2, Taken: noon.Add(copyEvery - 1)}, false},
		"now and then":  {was, Copy{Epoch: 2, Taken: noon.Add(copyEvery)}, true},
		"set back":      {was, Copy{Epoch: 2, Taken: noon.Add(-copyEvery)}, true},
		"set back some": {was, Copy{Epoch: 2, Taken: noon.Add(1 - copyEvery)}, false},
	} {
		if got := c.is.MustRecord(c.was); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
