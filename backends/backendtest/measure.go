package backendtest

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// measured is the size of the file in the dataset whose calls are timed. rounds is the number of calls of each kind.
const (
	measured = 64 * dataset.MiB
	rounds   = 5
)

// Time is the median of a few calls.
type Time struct {
	What    string       `json:"what"`
	Seconds float64      `json:"seconds"`
	Bytes   dataset.Size `json:"bytes,omitempty"` // the amount of data that the call moves
}

// Measure times the calls of a pool, on a dataset with 64 MiB of data. If a call fails, t fails.
func Measure(t T, newPool func() (backends.Kind, backends.Config)) []Time {
	f := newFixture(t, newPool)
	took := map[string][]time.Duration{}
	for range rounds {
		d := f.Record()
		timed := func(what string, call func() error) {
			f.Helper()
			began := time.Now()
			f.OK(call())
			took[what] = append(took[what], time.Since(began))
		}
		timed("create", func() error { size, err := f.Pool.Create(f.Ctx, d); d.Size = size; return err })
		f.OK(f.Pool.Commit(f.Ctx, d.ID))
		m := f.Mount(d.ID)
		f.OK(os.WriteFile(m.PathOf("file"), treetest.Bytes(3, int(measured)), 0o600))
		f.OK(unix.Syncfs(int(m.Root.Fd()))) // the flush before a snapshot is not part of its time
		m.Unmount()
		s := f.NewSnapshot(d)
		timed("snapshot", func() error { return f.Pool.Snapshot(f.Ctx, s, nil) })
		c := f.Record()
		timed("clone", func() error { _, err := f.Pool.Clone(f.Ctx, c, f.Source(s), nil); return err })
		f.Write(d.ID, "file", "less")
		timed("restore", func() error { return f.Pool.Restore(f.Ctx, d.ID, s.ID, f.NewSnapshot(d), nil) })
		if f.Can.Delta {
			timed("send", func() error {
				_, err := f.Copier().Send(f.Ctx, f.Source(s), uuid.Nil, 0, io.Discard, nil)
				return err
			})
		}
		f.OK(f.Pool.Delete(f.Ctx, c.ID))
		timed("delete", func() error { return f.Pool.Delete(f.Ctx, d.ID) })
		f.Reap(0)
	}
	var list []Time
	for _, what := range []string{"create", "clone", "snapshot", "restore", "delete", "send"} {
		if len(took[what]) == 0 {
			continue
		}
		one := Time{What: what, Seconds: median(took[what]).Seconds()}
		if what == "send" {
			one.Bytes = measured
		}
		list = append(list, one)
	}
	return list
}

// Growth compares the time of a call on a dataset with 64 MiB of data and on one with eight times as much. Both times
// are medians of alternating calls.
type Growth struct {
	What         string
	Little, Much time.Duration
}

// Grow times snapshots and clones of a small and a large dataset. If a call fails, t fails.
func Grow(t T, newPool func() (backends.Kind, backends.Config)) []Growth {
	f := newFixture(t, newPool)
	var of [2]struct {
		dataset.Dataset
		snapshots, clones []time.Duration
	}
	for i, pieces := range []int{1, 8} {
		if f.Can.EnforcesSize {
			of[i].Dataset = f.Sized(2 * dataset.GiB)
		} else {
			of[i].Dataset = f.Create()
		}
		m := f.Mount(of[i].ID)
		for n := range pieces {
			f.OK(os.WriteFile(m.PathOf(strconv.Itoa(n)), treetest.Bytes(uint64(n), int(measured)), 0o600))
		}
		f.OK(unix.Syncfs(int(m.Root.Fd())))
		m.Unmount()
	}
	for range 3 * rounds {
		for i := range of {
			d := &of[i]
			s := f.NewSnapshot(d.Dataset)
			began := time.Now()
			f.OK(f.Pool.Snapshot(f.Ctx, s, nil))
			d.snapshots = append(d.snapshots, time.Since(began))
			c := f.Record()
			began = time.Now()
			_, err := f.Pool.Clone(f.Ctx, c, f.Source(s), nil)
			d.clones = append(d.clones, time.Since(began))
			f.OK(err)
			f.OK(f.Pool.Delete(f.Ctx, c.ID))
			f.OK(f.Pool.DeleteSnapshot(f.Ctx, s.Dataset, s.ID))
		}
	}
	for i := range of {
		f.OK(f.Pool.Delete(f.Ctx, of[i].ID))
	}
	f.Reap(0)
	return []Growth{
		{"snapshot", median(of[0].snapshots), median(of[1].snapshots)},
		{"clone", median(of[0].clones), median(of[1].clones)},
	}
}

// Metrics reports the times as metrics of a benchmark.
func Metrics(b interface{ ReportMetric(float64, string) }, list []Growth) {
	for _, g := range list {
		b.ReportMetric(g.Little.Seconds()*1e3, g.What+"-64MiB-ms")
		b.ReportMetric(g.Much.Seconds()*1e3, g.What+"-512MiB-ms")
		b.ReportMetric(g.Much.Seconds()/g.Little.Seconds(), g.What+"-ratio")
	}
	b.ReportMetric(0, "ns/op")
}

func median(took []time.Duration) time.Duration {
	slices.Sort(took)
	return took[len(took)/2]
}

// constantSnapshots checks the claim that the time of a snapshot does not grow with the number of pieces of a dataset.
// It overwrites every other block of a file after a snapshot. If the claim is false, the next snapshot takes many times
// longer. Only a clock can show that, so the test has a wide bound.
func constantSnapshots(f *fixture) {
	if !f.Can.ConstantSnapshot {
		return
	}
	const block, blocks = 4 << 10, 32 << 10
	d := f.Create()
	m := f.Mount(d.ID)
	file, err := os.Create(m.PathOf("file"))
	f.OK(err)
	defer file.Close()
	_, err = file.Write(treetest.Bytes(1, block*blocks))
	f.OK(err)
	f.OK(unix.Syncfs(int(m.Root.Fd())))
	whole := f.median(d)
	for at := int64(0); at < blocks; at += 2 {
		_, err = file.WriteAt(treetest.Bytes(uint64(at), block), at*block)
		f.OK(err)
	}
	f.OK(unix.Syncfs(int(m.Root.Fd())))
	f.TakeSnapshot(d)
	if pieces := f.median(d); pieces > 4*whole+50*time.Millisecond {
		f.Errorf("a snapshot takes %s of a file in one extent, %s of one in %d", whole, pieces, blocks)
	}
	f.OK(file.Close())
	m.Unmount()
}

// median returns the median time of a few snapshots.
func (f *fixture) median(d dataset.Dataset) time.Duration {
	f.Helper()
	var took []time.Duration
	for range rounds {
		began := time.Now()
		f.TakeSnapshot(d)
		took = append(took, time.Since(began))
	}
	return median(took)
}

// Path times the data path for a benchmark. It writes 16 KiB at random places of a file of 64 MiB, and flushes each
// write. It does that alternately in a dataset and in a directory on the same filesystem. beside makes that directory,
// and done unmounts it. Path reports the median rate of each, and the ratio of the dataset's rate to the directory's
// rate.
func Path(t T, b interface{ ReportMetric(float64, string) }, newPool func() (backends.Kind, backends.Config),
	beside func(pool backends.Config) string, done func()) {
	f := newFixture(t, newPool)
	var d dataset.Dataset
	if f.Can.EnforcesSize {
		d = f.Sized(dataset.GiB)
	} else {
		d = f.Create()
	}
	m := f.Mount(d.ID)
	var took [2][]time.Duration
	var files [2]*os.File
	for i, dir := range []string{beside(f.Config), m.Path} {
		file, err := os.Create(filepath.Join(dir, "file"))
		f.OK(err)
		_, err = file.Write(treetest.Bytes(1, int(measured)))
		f.OK(err)
		f.OK(file.Sync())
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
				f.OK(err)
				f.OK(unix.Fdatasync(int(files[i].Fd())))
			}
			took[i] = append(took[i], time.Since(began))
		}
	}
	f.OK(errors.Join(files[0].Close(), files[1].Close()))
	m.Unmount()
	done()
	var ratios []float64
	for i := range took[0] {
		ratios = append(ratios, took[0][i].Seconds()/took[1][i].Seconds())
	}
	slices.Sort(ratios)
	rate := func(i int) float64 { return writes / median(took[i]).Seconds() }
	b.ReportMetric(rate(0), "beside/s")
	b.ReportMetric(rate(1), "volume/s")
	b.ReportMetric(ratios[len(ratios)/2], "ratio")
	b.ReportMetric(0, "ns/op")
	f.OK(f.Pool.Delete(f.Ctx, d.ID))
	f.Reap(0)
}
