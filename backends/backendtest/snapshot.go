package backendtest

import (
	"bytes"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree"
	"github.com/droverhq/drover/internal/tree/treetest"
)

func isErrno(err error, no unix.Errno) bool { return errors.Is(err, no) }

func isKind(err error, kind *dataset.Kind) bool { return errors.Is(err, kind) }

// snapshotIsImmutable changes and destroys everything that shares blocks with a snapshot. It checks that clones of the
// snapshot still have the content that the dataset had when the snapshot was taken.
func snapshotIsImmutable(f *fixture) {
	plain, d := f.MakePlainDir(), f.Create()
	m := f.Mount(d.ID)
	treetest.Plant(f.T, plain.Name(), f.Unsupported...)
	treetest.Plant(f.T, m.Path, f.Unsupported...)
	m.Unmount()
	s := f.NewSnapshot(d)
	var reported int64
	f.Twice(func() error {
		return f.Pool.Snapshot(f.Ctx, s, func(done, total int64) {
			if done < reported || (total > 0 && done > total) {
				f.Errorf("progress went from %d to %d of %d", reported, done, total)
			}
			reported = done
		})
	})
	f.CheckSnapshots(d.ID, s)

	m = f.Mount(d.ID)
	f.OK(os.WriteFile(m.PathOf("file-1048576"), bytes.Repeat([]byte("overwritten"), 100_000), 0o600))
	f.OK(os.RemoveAll(m.PathOf("wide")))
	f.OK(os.WriteFile(m.PathOf("more"), treetest.Bytes(9, 1<<20), 0o600))
	f.OK(unix.Chmod(m.Path, 0o700))
	m.Unmount()
	f.OK(f.Pool.Snapshot(f.Ctx, s, nil)) // repeated: must not change the snapshot
	f.Open()
	f.CheckSnapshots(d.ID, s)

	c := f.Clone(f.Source(s))
	m = f.Mount(c.ID)
	f.CheckEqual(plain, m.Root)
	f.OK(os.WriteFile(m.PathOf("in the clone"), nil, 0o600))
	m.Unmount()
	m = f.Mount(f.Clone(f.Source(s)).ID)
	f.CheckEqual(plain, m.Root)
	m.Unmount()

	newer := f.TakeSnapshot(d)
	f.CheckSnapshots(d.ID, s, newer)
	f.Twice(func() error { return f.Pool.DeleteSnapshot(f.Ctx, d.ID, newer.ID) })
	f.CheckSnapshots(d.ID, s)
	f.CheckContent(d.ID, "file-1048576", string(bytes.Repeat([]byte("overwritten"), 100_000)))
}

// snapshotWhileWritten takes snapshots while a process writes to the dataset. Each snapshot must contain all writes
// that were acknowledged before it. A backend that copies files must refuse, and its capabilities must say so.
func snapshotWhileWritten(f *fixture) {
	d := f.Create()
	m := f.Mount(d.ID)
	j := f.journal(m)
	var taken []dataset.Snapshot
	var before []int64
	for range 5 {
		n, s := j.await(20), f.NewSnapshot(d)
		err := f.Pool.Snapshot(f.Ctx, s, nil)
		if !f.Can.InstantSnapshot {
			f.CheckFails(err, dataset.ErrInUse)
			continue
		}
		if err != nil {
			j.stop()
			f.Fatal(err)
		}
		taken, before = append(taken, s), append(before, n)
	}
	j.stop()
	m.Unmount()
	f.CheckSnapshots(d.ID, taken...)
	for i, s := range taken {
		f.checkJournal(f.Clone(f.Source(s)), before[i])
	}
	f.checkJournal(d, j.await(0))
}

func restoreKeepsOldHead(f *fixture) {
	d := f.Create()
	m := f.Mount(d.ID)
	treetest.Plant(f.T, m.Path, f.Unsupported...)
	m.Unmount()
	s := f.TakeSnapshot(d)
	plain := f.MakePlainDir()
	m = f.Mount(d.ID)
	f.OK(tree.Copy(f.Ctx, m.Root, plain, nil))
	f.OK(os.WriteFile(m.PathOf("second"), []byte("second"), 0o600))
	f.OK(os.RemoveAll(m.PathOf("wide")))
	m.Unmount()
	newer := f.TakeSnapshot(d)
	f.Write(d.ID, "third", "third")

	keep := f.NewSnapshot(d)
	keep.Kind, keep.Name = dataset.SnapshotRestore, "the previous content"
	f.Twice(func() error { return f.Pool.Restore(f.Ctx, d.ID, s.ID, keep, nil) })
	f.Open()
	f.CheckSnapshots(d.ID, s, newer, keep)
	m = f.Mount(d.ID)
	f.CheckEqual(plain, m.Root)
	f.OK(os.WriteFile(m.PathOf("after"), []byte("after"), 0o600))
	f.OK(f.Pool.Restore(f.Ctx, d.ID, s.ID, keep, nil)) // repeated while in use: later writes must stay
	m.Unmount()
	f.CheckContent(d.ID, "after", "after")

	kept := f.Clone(f.Source(keep))
	f.CheckContent(kept.ID, "third", "third")
	f.CheckContent(f.Clone(f.Source(newer)).ID, "third", "")
	f.CheckContent(f.Clone(f.Source(newer)).ID, "second", "second")

	back := f.NewSnapshot(d) // the kept head can be restored too
	f.OK(f.Pool.Restore(f.Ctx, d.ID, keep.ID, back, nil))
	f.CheckSnapshots(d.ID, s, newer, keep, back)
	f.CheckContent(d.ID, "third", "third")
	f.CheckContent(f.Clone(f.Source(back)).ID, "after", "after")
	for _, old := range []dataset.Snapshot{s, keep, back, newer} {
		if f.Can.CloneIndependent {
			f.Twice(func() error { return f.Pool.DeleteSnapshot(f.Ctx, d.ID, old.ID) })
		}
	}
	f.OK(f.Pool.Restore(f.Ctx, d.ID, keep.ID, back, nil)) // repeated without its snapshots: it is complete
	f.CheckContent(d.ID, "third", "third")
	f.CheckContent(kept.ID, "third", "third")
}

// interruptedRestoreKeepsLaterWrites continues a restore that was interrupted after it had kept the head. The head was
// used since, and none of its writes may be lost. A completed restore is not repeated: neither later writes nor a later
// restore are undone.
func interruptedRestoreKeepsLaterWrites(f *fixture) {
	d := f.Create()
	f.Write(d.ID, "file", "old")
	s := f.TakeSnapshot(d)
	f.Write(d.ID, "file", "before")
	keep := f.NewSnapshot(d)
	keep.Kind = dataset.SnapshotRestore
	f.OK(f.Pool.Snapshot(f.Ctx, keep, nil))
	f.Write(d.ID, "file", "acknowledged")
	f.Twice(func() error { return f.Pool.Restore(f.Ctx, d.ID, s.ID, keep, nil) })
	f.CheckContent(d.ID, "file", "old")
	f.CheckSnapshots(d.ID, s, keep)
	f.CheckContent(f.Clone(f.Source(keep)).ID, "file", "acknowledged")

	f.Write(d.ID, "file", "later")
	second := f.NewSnapshot(d)
	second.Kind = dataset.SnapshotRestore
	f.OK(f.Pool.Restore(f.Ctx, d.ID, s.ID, second, nil))
	f.Write(d.ID, "file", "last")
	for _, kept := range []dataset.Snapshot{keep, second} {
		f.OK(f.Pool.Restore(f.Ctx, d.ID, s.ID, kept, nil))
		f.CheckContent(d.ID, "file", "last")
	}
	f.CheckSnapshots(d.ID, s, keep, second)
	f.CheckContent(f.Clone(f.Source(keep)).ID, "file", "acknowledged")
	f.CheckContent(f.Clone(f.Source(second)).ID, "file", "later")
}

func restoreInUseIsRefused(f *fixture) {
	d := f.Create()
	f.Write(d.ID, "file", "old")
	s := f.TakeSnapshot(d)
	m := f.Mount(d.ID)
	f.OK(os.WriteFile(m.PathOf("file"), []byte("new"), 0o600))
	for range 2 {
		f.CheckFails(f.Pool.Restore(f.Ctx, d.ID, s.ID, f.NewSnapshot(d), nil), dataset.ErrInUse)
	}
	f.CheckFile(m.PathOf("file"), "new")
	m.Unmount()
	f.CheckSnapshots(d.ID, s)
	f.CheckContent(d.ID, "file", "new")
}
