package operation

import (
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// A record that matches the known one is not rewritten, whatever index it has. A record with the numbers of another
// store is rewritten.
func TestRecordOutOfDate(t *testing.T) {
	d := dataset.Dataset{Volume: "db"}
	for _, c := range []struct {
		volume         string
		written, index uint64
		want           bool
	}{
		{"db", 0, 7, false}, {"db", 7, 7, false}, {"db", 5, 7, false}, {"db", 7, 0, false},
		{"db", 9, 7, true}, {"old", 7, 7, true}, {"old", 0, 0, true},
	} {
		e := backends.Entry{State: backends.EntryReady, Record: &dataset.Dataset{Volume: c.volume, Written: c.written}}
		if got := isOutOfDate(e, d, c.index); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}
