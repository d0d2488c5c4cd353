package volumes

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// TestRates computes rates from two readings that are two seconds apart.
func TestRates(t *testing.T) {
	io := func(operations, bytes uint64, took time.Duration) api.IO {
		return api.IO{Operations: operations, Bytes: bytes, Time: dataset.Duration(took)}
	}
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		was, is     api.IO
		wasAt, isAt time.Time
		want        *ioRate
		cells       []string
	}{
		"busy": {
			io(10, 1000, time.Second), io(30, 1000+8<<20, 2*time.Second), start, start.Add(2 * time.Second),
			&ioRate{Operations: 10, Bytes: 4 << 20, Latency: 0.05}, []string{"10", "4MiB", "50.00ms"},
		},
		"idle": {
			io(10, 1000, time.Second), io(10, 1000, time.Second), start, start.Add(2 * time.Second),
			&ioRate{}, []string{"0", "0B", ""},
		},
		"slow": {
			io(10, 0, 0), io(11, 512, 0), start, start.Add(2 * time.Second),
			&ioRate{Operations: 0.5, Bytes: 256}, []string{"0.5", "256B", ""},
		},
		"attached again": {
			io(10, 1000, time.Second), io(3, 2000, 2*time.Second), start, start.Add(2 * time.Second),
			nil, []string{"", "", ""},
		},
		"attached between the readings": {
			api.IO{}, io(3, 2000, time.Second), time.Time{}, start, nil, []string{"", "", ""},
		},
		"no block device":        {cells: []string{"", "", ""}},
		"the clock was set back": {io(1, 1, 1), io(2, 2, 2), start, start.Add(-time.Hour), nil, []string{"", "", ""}},
	} {
		s := statsOf(api.Volume{}, api.VolumeIO{At: tc.wasAt, Write: tc.was}, api.VolumeIO{At: tc.isAt, Write: tc.is})
		if d := cmp.Diff(tc.want, s.Write); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
		var cells []string
		for _, c := range rateColumns("WRITE", func(s volumeStats) *ioRate { return s.Write }) {
			cells = append(cells, c.Cell(s))
		}
		if d := cmp.Diff(tc.cells, cells); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
}
