package daemon

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/housekeeping"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// many is a host with control and many volumes, each of which has every metric.
type many struct{ number int }

func (m many) Pools(context.Context) ([]api.Pool, error) { return nil, nil }

func (m many) SeenVolumes(context.Context) (list []api.VolumeSummary, err error) {
	for i := range m.number {
		list = append(list, api.VolumeSummary{
			ID: uuid.New(), Volume: fmt.Sprintf("volume-%05d", i), Size: dataset.GiB, Node: "host-a",
			Status: &dataset.DatasetStatus{Mounted: true, Used: new(dataset.Size(7)), Mounts: []dataset.Mount{{ID: "m", Count: 1}}},
		})
	}
	return list, nil
}

func (m many) VolumeIO(context.Context) (list []api.VolumeIO, err error) {
	for i := range m.number {
		io := api.IO{Operations: uint64(i), Bytes: uint64(i) << 12, Time: dataset.Duration(time.Second)}
		list = append(list, api.VolumeIO{Volume: fmt.Sprintf("volume-%05d", i), Node: "host-a", Read: io, Write: io})
	}
	return list, nil
}

func (m many) Schedules() (snapshots []housekeeping.Schedule, backups []housekeeping.BackupSchedule) {
	for i := range m.number {
		snapshots = append(snapshots, housekeeping.Schedule{Volume: fmt.Sprintf("volume-%05d", i), Age: time.Hour})
	}
	return snapshots, nil
}

func (m many) SupersededVolumes() []string { return nil }

func (m many) ReplicaLags() (list []agent.ReplicaLag) {
	for i := range m.number {
		list = append(list, agent.ReplicaLag{Volume: fmt.Sprintf("volume-%05d", i), Age: time.Hour, Interval: time.Hour})
	}
	return list
}

// scrape answers a request of a Prometheus, and returns the length of the compressed answer and the number of its lines.
func scrape(tb testing.TB, number int) (length, lines int) {
	tb.Helper()
	handler := NewMetrics(MetricsOptions{Source: many{number}, Agent: many{number}})
	req := httptest.NewRequest("GET", "/metrics", nil)
	req.Header.Set("Accept-Encoding", "gzip")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, req)
	length = w.Body.Len()
	r, err := gzip.NewReader(w.Body)
	require.NoError(tb, err)
	var text bytes.Buffer
	if _, err := text.ReadFrom(r); err != nil {
		tb.Fatal(err)
	}
	return length, bytes.Count(text.Bytes(), []byte("\n"))
}

// TestScrapeOfManyVolumes prints how long a scrape of 10,000 volumes takes. It checks only that it is complete.
func TestScrapeOfManyVolumes(t *testing.T) {
	const number = 10_000
	began := time.Now()
	length, lines := scrape(t, number)
	t.Logf("a scrape of %d volumes: %d lines, %d bytes compressed, %s", number, lines, length, time.Since(began))
	if lines < 16*number {
		t.Errorf("%d lines, want 16 for each volume", lines)
	}
}

func BenchmarkScrape(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		scrape(b, 10_000)
	}
}
