package hand

import (
	"os"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/clock"
)

// BenchmarkLook measures one look at all processes of this host, and prints the time for each.
func BenchmarkLook(b *testing.B) {
	tool := New(Options{Run: b.TempDir(), Clock: clock.System{}})
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

// BenchmarkExamine measures the examination of a process with very many descriptors: this one. It prints
// the time for each descriptor.
func BenchmarkExamine(b *testing.B) {
	const many = 15_000
	descriptors(b, many)
	tool := New(Options{Run: b.TempDir(), Clock: clock.System{}})
	w, err := tool.list(nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		x := w.examinationOf(&process{Process: Process{PID: os.Getpid()}})
		if _, err := tool.examiner.Examine(b.Context(), tool.Clock, x, func() {}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/many, "ns/descriptor")
}
