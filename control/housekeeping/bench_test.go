package housekeeping_test

import (
	"fmt"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// BenchmarkRound measures the background work: a round in which nothing changed, a round with one change, and a round
// that reads everything.
func BenchmarkRound(b *testing.B) {
	e := controltest.New(b)
	a := e.NewAgent("alpha")
	for i := range 2000 {
		a.MustCreate(fmt.Sprintf("db-%05d@gold", i))
	}
	e.Round()
	for name, before := range map[string]func(){
		"quiet": func() {},
		"one change": func() {
			on := !e.MustVolume("db-00007").Protected
			e.MustSubmit(api.Request{Kind: dataset.OpUpdate, Volume: "db-00007", Protect: &on})
		},
		"everything": func() { e.Memory.FullDue = controltest.Start },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				before()
				e.Round()
			}
		})
	}
}
