package control_test

import (
	"fmt"
	"testing"

	"github.com/droverhq/drover/control/controltest"
)

// BenchmarkCreate is what a create costs control, without the store's flush.
func BenchmarkCreate(b *testing.B) {
	e, a := controltest.OneNode(b)
	for _, part := range []string{"plan", "plan+commit"} {
		b.Run(part, func(b *testing.B) {
			b.ReportAllocs()
			e.Spy.Counted()
			n := 0
			for b.Loop() {
				op := a.MustPlan(controltest.Create(fmt.Sprintf("%s-%d-%d@gold", part[:4], b.N, n)))
				if part != "plan" {
					a.MustCommit(op)
				}
				n++
			}
			reads, txns, keys := e.Spy.Counted()
			b.ReportMetric(float64(reads)/float64(n), "reads/op")
			b.ReportMetric(float64(txns)/float64(n), "txns/op")
			b.ReportMetric(float64(keys)/float64(n), "keys/op")
		})
	}
}
