package hand

import (
	"testing"
	"time"

	"github.com/droverhq/drover/internal/clock"
)

// BenchmarkLook measures one look at all processes of this host, and prints the time for each.
func BenchmarkLook(b *testing.B) {
	tool := &Tool{Run: b.TempDir(), Clock: clock.System{}}
	var processes int
	for b.Loop() {
		w, err := tool.list(nil)
		if err != nil {
			b.Fatal(err)
		}
		tool.examineAll(w, time.Second)
		processes = len(w.procs)
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(processes), "µs/process")
	b.ReportMetric(float64(processes), "processes")
}
