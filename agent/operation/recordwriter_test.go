package operation

import (
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// A record that differs from the known one is rewritten, unless it has a higher index of the same epoch: then the store
// was restored from a backup, and a rebuild needs the record. A record that matches is rewritten only for its index.
func TestRecordOutOfDate(t *testing.T) {
	d := dataset.Dataset{Volume: "db", Epoch: 2}
	for _, c := range []struct {
		volume                string
		written, index, epoch uint64
		want                  bool
	}{
		{"db", 0, 7, 2, false}, {"db", 7, 7, 2, false}, {"db", 5, 7, 2, false}, {"db", 7, 0, 2, false},
		{"db", 9, 7, 2, true}, {"other", 7, 7, 2, true}, {"other", 0, 0, 2, true},
		{"other", 9, 7, 2, false}, {"other", 9, 0, 2, true}, {"other", 9, 7, 1, true}, {"db", 9, 7, 1, true},
	} {
		e := backends.Entry{State: backends.EntryReady, Record: &dataset.Dataset{
			Volume: c.volume, Written: c.written, Epoch: c.epoch,
		}}
		if got := isOutOfDate(e, d, c.index); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}
