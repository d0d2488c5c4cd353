package backendtest

import (
	"context"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

func cloneWhileWritten(f *fixture) {
	d := f.create()
	m := f.mount(d.ID)
	j := f.journal(m)
	n, c := j.await(20), f.record()
	_, err := f.pool.Clone(f.ctx, c, dataset.Source{Dataset: d.ID}, nil)
	j.stop()
	if !f.can.InstantSnapshot {
		f.fails(err, dataset.ErrInUse)
		f.absent(c.ID)
		m.unmount()
		return
	}
	f.ok(err)
	f.journalHolds(c, n) // while the source is still mounted
	m.unmount()
}

func clonesAreIndependent(f *fixture) {
	d := f.create()
	f.write(d.ID, "file", "of the source")
	c := f.record()
	c.Origin = &dataset.Origin{Dataset: d.ID}
	f.twice(func() error {
		_, err := f.pool.Clone(f.ctx, c, dataset.Source{Dataset: d.ID}, nil)
		return err
	})
	f.inState(c, backends.EntryIncoming)
	f.ok(f.pool.Commit(f.ctx, c.ID))
	f.inState(c, backends.EntryReady)
	f.hasSnapshots(c.ID)
	f.write(c.ID, "file", "of the clone")
	f.holds(d.ID, "file", "of the source")
	f.write(d.ID, "file", "of the source, later")
	f.holds(c.ID, "file", "of the clone")
	_, err := f.pool.Clone(f.ctx, c, dataset.Source{Dataset: d.ID}, nil) // repeated: must not recreate the clone
	f.ok(err)
	f.holds(c.ID, "file", "of the clone")

	second := f.clone(dataset.Source{Dataset: c.ID})
	one, two, three := f.mount(d.ID), f.mount(c.ID), f.mount(second.ID)
	f.equal(two.root, three.root)
	f.ok(os.WriteFile(two.in("file"), []byte("concurrently"), 0o600))
	f.fileHolds(one.in("file"), "of the source, later")
	f.fileHolds(three.in("file"), "of the clone")
}

func clonesAndDeletedSources(f *fixture) {
	d := f.create()
	f.write(d.ID, "file", "content")
	s := f.take(d)
	c := f.clone(f.source(s))
	err := f.pool.DeleteSnapshot(f.ctx, d.ID, s.ID)
	if !f.can.CloneIndependent {
		f.fails(err, dataset.ErrInUse)
		f.hasSnapshots(d.ID, s)
		f.ok(f.pool.Delete(f.ctx, c.ID))
		f.twice(func() error { return f.pool.DeleteSnapshot(f.ctx, d.ID, s.ID) })
		return
	}
	f.ok(err)
	f.hasSnapshots(d.ID)
	f.ok(f.pool.Delete(f.ctx, d.ID))
	f.absent(d.ID)
	f.open()
	f.holds(c.ID, "file", "content")
	f.write(c.ID, "more", "content")
	f.ok(f.pool.Delete(f.ctx, c.ID))
}

// cancelledIsAllOrNothing calls methods with a context that has ended. The result must be complete or absent.
func cancelledIsAllOrNothing(f *fixture) {
	d := f.create()
	f.write(d.ID, "file", "content")
	ended, cancel := context.WithCancel(f.ctx)
	cancel()
	s, c := f.snapshot(d), f.record()
	if err := f.pool.Snapshot(ended, s, nil); err != nil {
		f.hasSnapshots(d.ID)
		f.ok(f.pool.Snapshot(f.ctx, s, nil))
	}
	f.hasSnapshots(d.ID, s)
	if _, err := f.pool.Clone(ended, c, f.source(s), nil); err != nil {
		f.absent(c.ID)
		_, err := f.pool.Clone(f.ctx, c, f.source(s), nil)
		f.ok(err)
	}
	f.holds(c.ID, "file", "content")
	f.write(d.ID, "file", "later")
	keep := f.snapshot(d)
	if err := f.pool.Restore(ended, d.ID, s.ID, keep, nil); err != nil {
		f.hasSnapshots(d.ID, s)
		f.holds(d.ID, "file", "later")
	} else {
		f.hasSnapshots(d.ID, s, keep)
		f.holds(d.ID, "file", "content")
	}
	if err := f.pool.Delete(ended, d.ID); err == nil {
		f.absent(d.ID)
	}
	f.ok(f.pool.Delete(f.ctx, d.ID))
	_, err := f.pool.Reap(f.ctx, func(uuid.UUID) bool { return false })
	f.ok(err)
	f.absent(d.ID)
	if st := f.pool.Status(f.ctx); st.Leftovers != 0 {
		f.Errorf("%d deletions are pending after a complete reap", st.Leftovers)
	}
}
