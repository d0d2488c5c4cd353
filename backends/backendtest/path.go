package backendtest

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// Path times the data path for a benchmark: 16 KiB at random places of a file of 64 MiB, each
// flushed, in a dataset and in a directory that beside makes on the same filesystem, and done
// unmounts, in turns. It reports the median rates, and the ratio of the dataset's rate to the other one.
func Path(t T, b interface{ ReportMetric(float64, string) }, newPool func() (backends.Kind, backends.Config),
	beside func(pool backends.Config) string, done func()) {
	f := newFixture(t, newPool)
	var d dataset.Dataset
	if f.can.EnforcesSize {
		d = f.sized(dataset.GiB)
	} else {
		d = f.create()
	}
	m := f.mount(d.ID)
	var took [2][]time.Duration
	var files [2]*os.File
	for i, dir := range []string{beside(f.cfg), m.path} {
		file, err := os.Create(filepath.Join(dir, "file"))
		f.ok(err)
		_, err = file.Write(treetest.Bytes(1, int(measured)))
		f.ok(err)
		f.ok(file.Sync())
		files[i] = file
	}
	const block, writes = 16 << 10, 20
	random := rand.New(rand.NewPCG(1, 2))
	content := treetest.Bytes(2, block)
	for round := range 100 {
		for turn := range files {
			i := (turn + round) % len(files)
			began := time.Now()
			for range writes {
				_, err := files[i].WriteAt(content, random.Int64N(int64(measured)/block)*block)
				f.ok(err)
				f.ok(unix.Fdatasync(int(files[i].Fd())))
			}
			took[i] = append(took[i], time.Since(began))
		}
	}
	f.ok(errors.Join(files[0].Close(), files[1].Close()))
	m.unmount()
	done()
	var ratios []float64
	for i := range took[0] {
		ratios = append(ratios, took[0][i].Seconds()/took[1][i].Seconds())
	}
	slices.Sort(ratios)
	rate := func(i int) float64 { return writes / middle(took[i]).Seconds() }
	b.ReportMetric(rate(0), "beside/s")
	b.ReportMetric(rate(1), "volume/s")
	b.ReportMetric(ratios[len(ratios)/2], "ratio")
	b.ReportMetric(0, "ns/op")
	f.ok(f.pool.Delete(f.ctx, d.ID))
	f.reap(0)
}
