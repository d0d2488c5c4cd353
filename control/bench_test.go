package control

import (
	"fmt"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// BenchmarkCreate is what a create costs control, without the store's flush.
func BenchmarkCreate(b *testing.B) {
	e := newEnv(b)
	a := e.agent("alpha")
	for _, part := range []string{"plan", "plan+commit"} {
		b.Run(part, func(b *testing.B) {
			b.ReportAllocs()
			e.spy.counted()
			n := 0
			for b.Loop() {
				op := a.plan(create(fmt.Sprintf("%s-%d-%d@gold", part[:4], b.N, n)))
				if part != "plan" {
					a.commit(op)
				}
				n++
			}
			reads, txns, keys := e.spy.counted()
			b.ReportMetric(float64(reads)/float64(n), "reads/op")
			b.ReportMetric(float64(txns)/float64(n), "txns/op")
			b.ReportMetric(float64(keys)/float64(n), "keys/op")
		})
	}
}

// BenchmarkVolumes is a look at one of many volumes, and a page of them.
func BenchmarkVolumes(b *testing.B) {
	for _, count := range []int{100, 10000} {
		e := newEnv(b)
		a := e.agent("alpha")
		for i := range count {
			a.create(fmt.Sprintf("db-%05d@gold", i))
		}
		for i := range 20 {
			a.snapshot("db-00050", fmt.Sprintf("s%d", i))
		}
		b.Run(fmt.Sprintf("one of %d", count), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e.volume("db-00050")
			}
		})
		b.Run(fmt.Sprintf("page of 100 of %d", count), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if l, err := e.Volumes(e.ctx, api.Page{After: fmt.Sprintf("db-%05d", count-101), Limit: 100}); err != nil || len(l.Items) != 100 {
					b.Fatal(len(l.Items), err)
				}
			}
		})
		b.Run(fmt.Sprintf("all of %d", count), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				n := 0
				for p := (api.Page{}); ; {
					l, err := e.Volumes(e.ctx, p)
					if err != nil {
						b.Fatal(err)
					}
					if n += len(l.Items); l.Next == "" {
						break
					}
					p.After = l.Next
				}
				if n != count {
					b.Fatal(n)
				}
			}
		})
		b.Run(fmt.Sprintf("sync of all %d", count), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if s := a.sync(0); len(s.Datasets) != count {
					b.Fatal(len(s.Datasets))
				}
			}
		})
	}
}

// BenchmarkRound is the background work: a round in which nothing changed, one
// with one change, and the look at everything.
func BenchmarkRound(b *testing.B) {
	e := newEnv(b)
	a := e.agent("alpha")
	for i := range 2000 {
		a.create(fmt.Sprintf("db-%05d@gold", i))
	}
	e.rounds()
	for name, before := range map[string]func(){
		"quiet": func() {},
		"one change": func() {
			on := !e.volume("db-00007").Protected
			e.submit(api.Request{Kind: dataset.OpUpdate, Volume: "db-00007", Protect: &on})
		},
		"everything": func() { e.house.Full = someday },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				before()
				e.rounds()
			}
		})
	}
}
