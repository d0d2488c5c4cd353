package backendtest

import (
	"os"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree"
	"github.com/droverhq/drover/internal/tree/treetest"
)

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
	keep.Kind, keep.Name = dataset.SnapshotRestore, "what was"
	f.twice(func() error { return f.pool.Restore(f.ctx, d.ID, s.ID, keep, nil) })
	f.open()
	f.hasSnapshots(d.ID, s, newer, keep)
	m = f.mount(d.ID)
	f.equal(plain, m.root)
	f.ok(os.WriteFile(m.in("after"), []byte("after"), 0o600))
	f.ok(f.pool.Restore(f.ctx, d.ID, s.ID, keep, nil)) // again, in use by now: later writes stay
	m.unmount()
	f.holds(d.ID, "after", "after")

	kept := f.clone(f.source(keep))
	f.holds(kept.ID, "third", "third")
	f.holds(f.clone(f.source(newer)).ID, "third", "")
	f.holds(f.clone(f.source(newer)).ID, "second", "second")

	back := f.snapshot(d) // and forth again
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
