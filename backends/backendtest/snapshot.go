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

// snapshotIsImmutable changes and destroys everything that shares blocks with a snapshot, and checks that its
// clones still have the content of its moment.
func snapshotIsImmutable(f *fixture) {
	plain, d := f.plain(), f.create()
	m := f.mount(d.ID)
	treetest.Plant(f.T, plain.Name(), f.without...)
	treetest.Plant(f.T, m.path, f.without...)
	m.unmount()
	s := f.snapshot(d)
	var told int64
	f.twice(func() error {
		return f.pool.Snapshot(f.ctx, s, func(done, total int64) {
			if done < told || (total > 0 && done > total) {
				f.Errorf("progress went from %d to %d of %d", told, done, total)
			}
			told = done
		})
	})
	f.hasSnapshots(d.ID, s)

	m = f.mount(d.ID)
	f.ok(os.WriteFile(m.in("file-1048576"), bytes.Repeat([]byte("overwritten"), 100_000), 0o600))
	f.ok(os.RemoveAll(m.in("wide")))
	f.ok(os.WriteFile(m.in("more"), treetest.Bytes(9, 1<<20), 0o600))
	f.ok(unix.Chmod(m.path, 0o700))
	m.unmount()
	f.ok(f.pool.Snapshot(f.ctx, s, nil)) // repeated: must not change the snapshot
	f.open()
	f.hasSnapshots(d.ID, s)

	c := f.clone(f.source(s))
	m = f.mount(c.ID)
	f.equal(plain, m.root)
	f.ok(os.WriteFile(m.in("in the clone"), nil, 0o600))
	m.unmount()
	m = f.mount(f.clone(f.source(s)).ID)
	f.equal(plain, m.root)
	m.unmount()

	newer := f.take(d)
	f.hasSnapshots(d.ID, s, newer)
	f.twice(func() error { return f.pool.DeleteSnapshot(f.ctx, d.ID, newer.ID) })
	f.hasSnapshots(d.ID, s)
	f.holds(d.ID, "file-1048576", string(bytes.Repeat([]byte("overwritten"), 100_000)))
}

// snapshotWhileWritten takes snapshots under a writer: each holds all that was
// acknowledged before it. A backend that copies refuses, and says so by its
// capabilities.
func snapshotWhileWritten(f *fixture) {
	d := f.create()
	m := f.mount(d.ID)
	j := f.journal(m)
	var taken []dataset.Snapshot
	var before []int64
	for range 5 {
		n, s := j.await(20), f.snapshot(d)
		err := f.pool.Snapshot(f.ctx, s, nil)
		if !f.can.InstantSnapshot {
			f.fails(err, dataset.ErrInUse)
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
	f.hasSnapshots(d.ID, taken...)
	for i, s := range taken {
		f.journalHolds(f.clone(f.source(s)), before[i])
	}
	f.journalHolds(d, j.await(0))
}

func restoreKeepsWhatWas(f *fixture) {
	d := f.create()
	m := f.mount(d.ID)
	treetest.Plant(f.T, m.path, f.without...)
	m.unmount()
	s := f.take(d)
	plain := f.plain()
	m = f.mount(d.ID)
	f.ok(tree.Copy(f.ctx, m.root, plain, nil))
	f.ok(os.WriteFile(m.in("second"), []byte("second"), 0o600))
	f.ok(os.RemoveAll(m.in("wide")))
	m.unmount()
	newer := f.take(d)
	f.write(d.ID, "third", "third")

	keep := f.snapshot(d)
	keep.Kind, keep.Name = dataset.SnapshotRestore, "the previous content"
	f.twice(func() error { return f.pool.Restore(f.ctx, d.ID, s.ID, keep, nil) })
	f.open()
	f.hasSnapshots(d.ID, s, newer, keep)
	m = f.mount(d.ID)
	f.equal(plain, m.root)
	f.ok(os.WriteFile(m.in("after"), []byte("after"), 0o600))
	f.ok(f.pool.Restore(f.ctx, d.ID, s.ID, keep, nil)) // repeated while in use: later writes must stay
	m.unmount()
	f.holds(d.ID, "after", "after")

	kept := f.clone(f.source(keep))
	f.holds(kept.ID, "third", "third")
	f.holds(f.clone(f.source(newer)).ID, "third", "")
	f.holds(f.clone(f.source(newer)).ID, "second", "second")

	back := f.snapshot(d) // and restore the kept head
	f.ok(f.pool.Restore(f.ctx, d.ID, keep.ID, back, nil))
	f.hasSnapshots(d.ID, s, newer, keep, back)
	f.holds(d.ID, "third", "third")
	f.holds(f.clone(f.source(back)).ID, "after", "after")
	for _, old := range []dataset.Snapshot{s, keep, back, newer} {
		if f.can.CloneIndependent {
			f.twice(func() error { return f.pool.DeleteSnapshot(f.ctx, d.ID, old.ID) })
		}
	}
	f.holds(d.ID, "third", "third")
	f.holds(kept.ID, "third", "third")
}

// restoreKeepsWhatTheHeadIsThen continues a restore that was interrupted after it had kept the head. The head
// was used since, and none of its writes may be lost. A finished restore is not repeated, neither over later
// writes nor over another restore.
func restoreKeepsWhatTheHeadIsThen(f *fixture) {
	d := f.create()
	f.write(d.ID, "file", "old")
	s := f.take(d)
	f.write(d.ID, "file", "before")
	keep := f.snapshot(d)
	keep.Kind = dataset.SnapshotRestore
	f.ok(f.pool.Snapshot(f.ctx, keep, nil))
	f.write(d.ID, "file", "acknowledged")
	f.twice(func() error { return f.pool.Restore(f.ctx, d.ID, s.ID, keep, nil) })
	f.holds(d.ID, "file", "old")
	f.hasSnapshots(d.ID, s, keep)
	f.holds(f.clone(f.source(keep)).ID, "file", "acknowledged")

	f.write(d.ID, "file", "later")
	second := f.snapshot(d)
	second.Kind = dataset.SnapshotRestore
	f.ok(f.pool.Restore(f.ctx, d.ID, s.ID, second, nil))
	f.write(d.ID, "file", "last")
	for _, again := range []dataset.Snapshot{keep, second} {
		f.ok(f.pool.Restore(f.ctx, d.ID, s.ID, again, nil))
		f.holds(d.ID, "file", "last")
	}
	f.hasSnapshots(d.ID, s, keep, second)
	f.holds(f.clone(f.source(keep)).ID, "file", "acknowledged")
	f.holds(f.clone(f.source(second)).ID, "file", "later")
}

func restoreInUseIsRefused(f *fixture) {
	d := f.create()
	f.write(d.ID, "file", "old")
	s := f.take(d)
	m := f.mount(d.ID)
	f.ok(os.WriteFile(m.in("file"), []byte("new"), 0o600))
	for range 2 {
		f.fails(f.pool.Restore(f.ctx, d.ID, s.ID, f.snapshot(d), nil), dataset.ErrInUse)
	}
	f.fileHolds(m.in("file"), "new")
	m.unmount()
	f.hasSnapshots(d.ID, s)
	f.holds(d.ID, "file", "new")
}
