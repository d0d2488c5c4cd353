package backendtest

import (
	"context"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

func cloneWhileWritten(f *fixture) {
	d := f.Create()
	m := f.mount(d.ID)
	j := f.journal(m)
	n, c := j.await(20), f.Record()
	_, err := f.Pool.Clone(f.Ctx, c, dataset.Source{Dataset: d.ID}, nil)
	j.stop()
	if !f.Can.InstantSnapshot {
		f.Fails(err, dataset.ErrInUse)
		f.Absent(c.ID)
		m.unmount()
		return
	}
	f.OK(err)
	f.journalHolds(c, n) // while the source is still mounted
	m.unmount()
}

func clonesAreIndependent(f *fixture) {
	d := f.Create()
	f.write(d.ID, "file", "of the source")
	c := f.Record()
	c.Origin = &dataset.Origin{Dataset: d.ID}
	f.Twice(func() error {
		_, err := f.Pool.Clone(f.Ctx, c, dataset.Source{Dataset: d.ID}, nil)
		return err
	})
	f.InState(c, backends.EntryIncoming)
	f.OK(f.Pool.Commit(f.Ctx, c.ID))
	f.InState(c, backends.EntryReady)
	f.HasSnapshots(c.ID)
	f.write(c.ID, "file", "of the clone")
	f.holds(d.ID, "file", "of the source")
	f.write(d.ID, "file", "of the source, later")
	f.holds(c.ID, "file", "of the clone")
	_, err := f.Pool.Clone(f.Ctx, c, dataset.Source{Dataset: d.ID}, nil) // repeated: must not recreate the clone
	f.OK(err)
	f.holds(c.ID, "file", "of the clone")

	second := f.Clone(dataset.Source{Dataset: c.ID})
	one, two, three := f.mount(d.ID), f.mount(c.ID), f.mount(second.ID)
	f.equal(two.root, three.root)
	f.OK(os.WriteFile(two.in("file"), []byte("concurrently"), 0o600))
	f.FileHolds(one.in("file"), "of the source, later")
	f.FileHolds(three.in("file"), "of the clone")
}

func clonesAndDeletedSources(f *fixture) {
	d := f.Create()
	f.write(d.ID, "file", "content")
	s := f.Take(d)
	c := f.Clone(f.Source(s))
	err := f.Pool.DeleteSnapshot(f.Ctx, d.ID, s.ID)
	if !f.Can.CloneIndependent {
		f.Fails(err, dataset.ErrInUse)
		f.HasSnapshots(d.ID, s)
		f.OK(f.Pool.Delete(f.Ctx, c.ID))
		f.Twice(func() error { return f.Pool.DeleteSnapshot(f.Ctx, d.ID, s.ID) })
		return
	}
	f.OK(err)
	f.HasSnapshots(d.ID)
	f.OK(f.Pool.Delete(f.Ctx, d.ID))
	f.Absent(d.ID)
	f.Open()
	f.holds(c.ID, "file", "content")
	f.write(c.ID, "more", "content")
	f.OK(f.Pool.Delete(f.Ctx, c.ID))
}

// cancelledIsAllOrNothing calls methods with a context that has ended. The result must be complete or absent.
func cancelledIsAllOrNothing(f *fixture) {
	d := f.Create()
	f.write(d.ID, "file", "content")
	ended, cancel := context.WithCancel(f.Ctx)
	cancel()
	s, c := f.NewSnapshot(d), f.Record()
	if err := f.Pool.Snapshot(ended, s, nil); err != nil {
		f.HasSnapshots(d.ID)
		f.OK(f.Pool.Snapshot(f.Ctx, s, nil))
	}
	f.HasSnapshots(d.ID, s)
	if _, err := f.Pool.Clone(ended, c, f.Source(s), nil); err != nil {
		f.Absent(c.ID)
		_, err := f.Pool.Clone(f.Ctx, c, f.Source(s), nil)
		f.OK(err)
	}
	f.holds(c.ID, "file", "content")
	f.write(d.ID, "file", "later")
	keep := f.NewSnapshot(d)
	if err := f.Pool.Restore(ended, d.ID, s.ID, keep, nil); err != nil {
		f.HasSnapshots(d.ID, s)
		f.holds(d.ID, "file", "later")
	} else {
		f.HasSnapshots(d.ID, s, keep)
		f.holds(d.ID, "file", "content")
	}
	if err := f.Pool.Delete(ended, d.ID); err == nil {
		f.Absent(d.ID)
	}
	f.OK(f.Pool.Delete(f.Ctx, d.ID))
	_, err := f.Pool.Reap(f.Ctx, func(uuid.UUID) bool { return false })
	f.OK(err)
	f.Absent(d.ID)
	if st := f.Pool.Status(f.Ctx); st.Leftovers != 0 {
		f.Errorf("%d deletions are pending after a complete reap", st.Leftovers)
	}
}
