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
	plain, d := f.makePlainDir(), f.Create()
	m := f.mount(d.ID)
	treetest.Plant(f.T, plain.Name(), f.unsupported...)
	treetest.Plant(f.T, m.path, f.unsupported...)
	m.unmount()
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

	m = f.mount(d.ID)
	f.OK(os.WriteFile(m.pathOf("file-1048576"), bytes.Repeat([]byte("overwritten"), 100_000), 0o600))
	f.OK(os.RemoveAll(m.pathOf("wide")))
	f.OK(os.WriteFile(m.pathOf("more"), treetest.Bytes(9, 1<<20), 0o600))
	f.OK(unix.Chmod(m.path, 0o700))
	m.unmount()
	f.OK(f.Pool.Snapshot(f.Ctx, s, nil)) // repeated: must not change the snapshot
	f.Open()
	f.CheckSnapshots(d.ID, s)

	c := f.Clone(f.Source(s))
	m = f.mount(c.ID)
	f.equal(plain, m.root)
	f.OK(os.WriteFile(m.pathOf("in the clone"), nil, 0o600))
	m.unmount()
	m = f.mount(f.Clone(f.Source(s)).ID)
	f.equal(plain, m.root)
	m.unmount()

	newer := f.TakeSnapshot(d)
	f.CheckSnapshots(d.ID, s, newer)
	f.Twice(func() error { return f.Pool.DeleteSnapshot(f.Ctx, d.ID, newer.ID) })
	f.CheckSnapshots(d.ID, s)
	f.checkFile(d.ID, "file-1048576", string(bytes.Repeat([]byte("overwritten"), 100_000)))
}

// snapshotWhileWritten takes snapshots while a process writes to the dataset. Each snapshot must contain all writes
// that were acknowledged before it. A backend that copies files must refuse, and its capabilities must say so.
func snapshotWhileWritten(f *fixture) {
	d := f.Create()
	m := f.mount(d.ID)
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
	m.unmount()
	f.CheckSnapshots(d.ID, taken...)
	for i, s := range taken {
		f.checkJournal(f.Clone(f.Source(s)), before[i])
	}
	f.checkJournal(d, j.await(0))
}

func restoreKeepsOldHead(f *fixture) {
	d := f.Create()
	m := f.mount(d.ID)
	treetest.Plant(f.T, m.path, f.unsupported...)
	m.unmount()
	s := f.TakeSnapshot(d)
	plain := f.makePlainDir()
	m = f.mount(d.ID)
	f.OK(tree.Copy(f.Ctx, m.root, plain, nil))
	f.OK(os.WriteFile(m.pathOf("second"), []byte("second"), 0o600))
	f.OK(os.RemoveAll(m.pathOf("wide")))
	m.unmount()
	newer := f.TakeSnapshot(d)
	f.write(d.ID, "third", "third")

	keep := f.NewSnapshot(d)
	keep.Kind, keep.Name = dataset.SnapshotRestore, "the previous content"
	f.Twice(func() error { return f.Pool.Restore(f.Ctx, d.ID, s.ID, keep, nil) })
	f.Open()
	f.CheckSnapshots(d.ID, s, newer, keep)
	m = f.mount(d.ID)
	f.equal(plain, m.root)
	f.OK(os.WriteFile(m.pathOf("after"), []byte("after"), 0o600))
	f.OK(f.Pool.Restore(f.Ctx, d.ID, s.ID, keep, nil)) // repeated while in use: later writes must stay
	m.unmount()
	f.checkFile(d.ID, "after", "after")

	kept := f.Clone(f.Source(keep))
	f.checkFile(kept.ID, "third", "third")
	f.checkFile(f.Clone(f.Source(newer)).ID, "third", "")
	f.checkFile(f.Clone(f.Source(newer)).ID, "second", "second")

	back := f.NewSnapshot(d) // the kept head can be restored too
	f.OK(f.Pool.Restore(f.Ctx, d.ID, keep.ID, back, nil))
	f.CheckSnapshots(d.ID, s, newer, keep, back)
	f.checkFile(d.ID, "third", "third")
	f.checkFile(f.Clone(f.Source(back)).ID, "after", "after")
	for _, old := range []dataset.Snapshot{s, keep, back, newer} {
		if f.Can.CloneIndependent {
			f.Twice(func() error { return f.Pool.DeleteSnapshot(f.Ctx, d.ID, old.ID) })
		}
	}
	f.checkFile(d.ID, "third", "third")
	f.checkFile(kept.ID, "third", "third")
}

// interruptedRestoreKeepsLaterWrites continues a restore that was interrupted after it had kept the head. The head was
// used since, and none of its writes may be lost. A completed restore is not repeated: neither later writes nor a later
// restore are undone.
func interruptedRestoreKeepsLaterWrites(f *fixture) {
	d := f.Create()
	f.write(d.ID, "file", "old")
	s := f.TakeSnapshot(d)
	f.write(d.ID, "file", "before")
	keep := f.NewSnapshot(d)
	keep.Kind = dataset.SnapshotRestore
	f.OK(f.Pool.Snapshot(f.Ctx, keep, nil))
	f.write(d.ID, "file", "acknowledged")
	f.Twice(func() error { return f.Pool.Restore(f.Ctx, d.ID, s.ID, keep, nil) })
	f.checkFile(d.ID, "file", "old")
	f.CheckSnapshots(d.ID, s, keep)
	f.checkFile(f.Clone(f.Source(keep)).ID, "file", "acknowledged")

	f.write(d.ID, "file", "later")
	second := f.NewSnapshot(d)
	second.Kind = dataset.SnapshotRestore
	f.OK(f.Pool.Restore(f.Ctx, d.ID, s.ID, second, nil))
	f.write(d.ID, "file", "last")
	for _, kept := range []dataset.Snapshot{keep, second} {
		f.OK(f.Pool.Restore(f.Ctx, d.ID, s.ID, kept, nil))
		f.checkFile(d.ID, "file", "last")
	}
	f.CheckSnapshots(d.ID, s, keep, second)
	f.checkFile(f.Clone(f.Source(keep)).ID, "file", "acknowledged")
	f.checkFile(f.Clone(f.Source(second)).ID, "file", "later")
}

func restoreInUseIsRefused(f *fixture) {
	d := f.Create()
	f.write(d.ID, "file", "old")
	s := f.TakeSnapshot(d)
	m := f.mount(d.ID)
	f.OK(os.WriteFile(m.pathOf("file"), []byte("new"), 0o600))
	for range 2 {
		f.CheckFails(f.Pool.Restore(f.Ctx, d.ID, s.ID, f.NewSnapshot(d), nil), dataset.ErrInUse)
	}
	f.CheckFile(m.pathOf("file"), "new")
	m.unmount()
	f.CheckSnapshots(d.ID, s)
	f.checkFile(d.ID, "file", "new")
}
