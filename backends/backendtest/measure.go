package backendtest

import (
	"io"
	"os"
	"slices"
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
