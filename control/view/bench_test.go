package view_test

import (
	"fmt"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
)

// BenchmarkVolumes measures reading one of many volumes, and reading a page of them.
func BenchmarkVolumes(b *testing.B) {
	for _, count := range []int{100, 10000} {
		e := controltest.New(b)
		a := e.NewAgent("alpha")
		for i := range count {
			a.MustCreate(fmt.Sprintf("db-%05d@gold", i))
		}
		for i := range 20 {
			a.MustSnapshot("db-00050", fmt.Sprintf("s%d", i))
		}
		b.Run(fmt.Sprintf("one of %d", count), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e.MustVolume("db-00050")
			}
		})
		b.Run(fmt.Sprintf("page of 100 of %d", count), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if l, err := e.Volumes(e.Ctx, api.Page{After: fmt.Sprintf("db-%05d", count-101), Limit: 100}); err != nil || len(l.Items) != 100 {
					b.Fatal(len(l.Items), err)
				}
			}
		})
		for name, summary := range map[string]bool{"all": false, "summaries": true} {
			b.Run(fmt.Sprintf("%s of %d", name, count), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if n := countVolumes(b, e, summary); n != count {
						b.Fatal(n)
					}
				}
			})
		}
		b.Run(fmt.Sprintf("sync of all %d", count), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if s := a.MustSync(0); len(s.Datasets) != count {
					b.Fatal(len(s.Datasets))
				}
			}
		})
	}
}

// countVolumes reads all pages of the list of volumes.
func countVolumes(b *testing.B, e *controltest.Control, summary bool) (n int) {
	for p := (api.Page{}); ; {
		length, next, err := 0, "", error(nil)
		if summary {
			var l api.List[api.VolumeSummary]
			l, err = e.VolumeSummaries(e.Ctx, p)
			length, next = len(l.Items), l.Next
		} else {
			var l api.List[api.Volume]
			l, err = e.Volumes(e.Ctx, p)
			length, next = len(l.Items), l.Next
		}
		if err != nil {
			b.Fatal(err)
		}
		if n += length; next == "" {
			return n
		}
		p.After = next
	}
}
