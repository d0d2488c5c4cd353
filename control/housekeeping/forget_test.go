package housekeeping

import (
	"fmt"
	"testing"
	"time"
)

// If there are too many records, by number or by bytes, the oldest are surplus. The records that are kept
// last are surplus only once nothing else is left.
func TestSurplus(t *testing.T) {
	record := func(ran time.Duration, bytes int, keptLast bool) endedRecord {
		return endedRecord{key: fmt.Sprint(int64(ran)), bytes: bytes, runTime: ran, keptLast: keptLast}
	}
	records := []endedRecord{
		record(3, 10, false), record(1, 10, true), record(5, 10, false), record(2, 10, false), record(4, 30, false),
	}
	for _, c := range []struct {
		most, bytes int
		want        []string // the ones that are forgotten last come first
	}{
		{5, 70, nil},
		{4, 70, []string{"2"}},
		{2, 70, []string{"4", "3", "2"}},
		{5, 69, []string{"2"}},
		{5, 49, []string{"4", "3", "2"}},
		{1, 70, []string{"5", "4", "3", "2"}},
		{0, 70, []string{"1", "5", "4", "3", "2"}},
		{5, 9, []string{"1", "5", "4", "3", "2"}},
	} {
		var got []string
		for _, r := range surplus(records, c.most, c.bytes) {
			got = append(got, r.key)
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%d and %d bytes: %v are surplus, want %v", c.most, c.bytes, got, c.want)
		}
	}
}
