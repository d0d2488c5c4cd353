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
	m := f.Mount(d.ID)
	j := f.journal(m)
	n, c := j.await(20), f.Record()
	_, err := f.Pool.Clone(f.Ctx, c, dataset.Source{Dataset: d.ID}, nil)
	j.stop()
	if !f.Can.InstantSnapshot {
		f.CheckFails(err, dataset.ErrInUse)
		f.CheckAbsent(c.ID)
		m.Unmount()
		return
	}
	f.OK(err)
	f.checkJournal(c, n) // while the source is still mounted
	m.Unmount()
}

func clonesAreIndependent(f *fixture) {
	d := f.Create()
	f.Write(d.ID, "file", "of the source")
	c := f.Record()
	c.Origin = &dataset.Origin{Dataset: d.ID}
	f.Twice(func() error {
		_, err := f.Pool.Clone(f.Ctx, c, dataset.Source{Dataset: d.ID}, nil)
		return err
	})
	f.CheckState(c, backends.EntryIncoming)
	f.OK(f.Pool.Commit(f.Ctx, c.ID))
	f.CheckState(c, backends.EntryReady)
	f.CheckSnapshots(c.ID)
	f.Write(c.ID, "file", "of the clone")
	f.CheckContent(d.ID, "file", "of the source")
	f.Write(d.ID, "file", "of the source, later")
	f.CheckContent(c.ID, "file", "of the clone")
	_, err := f.Pool.Clone(f.Ctx, c, dataset.Source{Dataset: d.ID}, nil) // repeated: must not recreate the clone
	f.OK(err)
	f.CheckContent(c.ID, "file", "of the clone")

	second := f.Clone(dataset.Source{Dataset: c.ID})
	one, two, three := f.Mount(d.ID), f.Mount(c.ID), f.Mount(second.ID)
	f.CheckEqual(two.Root, three.Root)
	f.OK(os.WriteFile(two.PathOf("file"), []byte("concurrently"), 0o600))
	f.CheckFile(one.PathOf("file"), "of the source, later")
	f.CheckFile(three.PathOf("file"), "of the clone")
}

func clonesAndDeletedSources(f *fixture) {
	d := f.Create()
	f.Write(d.ID, "file", "content")
	s := f.TakeSnapshot(d)
	c := f.Clone(f.Source(s))
	err := f.Pool.DeleteSnapshot(f.Ctx, d.ID, s.ID)
	if !f.Can.CloneIndependent {
		f.CheckFails(err, dataset.ErrInUse)
		f.CheckSnapshots(d.ID, s)
		f.OK(f.Pool.Delete(f.Ctx, c.ID))
		f.Twice(func() error { return f.Pool.DeleteSnapshot(f.Ctx, d.ID, s.ID) })
		return
	}
	f.OK(err)
	f.CheckSnapshots(d.ID)
	f.OK(f.Pool.Delete(f.Ctx, d.ID))
	f.CheckAbsent(d.ID)
	f.Open()
	f.CheckContent(c.ID, "file", "content")
	f.Write(c.ID, "more", "content")
	f.OK(f.Pool.Delete(f.Ctx, c.ID))
}

// cancelledCallIsAtomic calls methods with a context that has ended. The result must be complete or absent.
func cancelledCallIsAtomic(f *fixture) {
	d := f.Create()
	f.Write(d.ID, "file", "content")
	ended, cancel := context.WithCancel(f.Ctx)
	cancel()
	s, c := f.NewSnapshot(d), f.Record()
	if err := f.Pool.Snapshot(ended, s, nil); err != nil {
		f.CheckSnapshots(d.ID)
		f.OK(f.Pool.Snapshot(f.Ctx, s, nil))
	}
	f.CheckSnapshots(d.ID, s)
	if _, err := f.Pool.Clone(ended, c, f.Source(s), nil); err != nil {
		f.CheckAbsent(c.ID)
		_, err := f.Pool.Clone(f.Ctx, c, f.Source(s), nil)
		f.OK(err)
	}
	f.CheckContent(c.ID, "file", "content")
	f.Write(d.ID, "file", "later")
	keep := f.NewSnapshot(d)
	if err := f.Pool.Restore(ended, d.ID, s.ID, keep, nil); err != nil {
		f.CheckSnapshots(d.ID, s)
		f.CheckContent(d.ID, "file", "later")
	} else {
		f.CheckSnapshots(d.ID, s, keep)
		f.CheckContent(d.ID, "file", "content")
	}
	if err := f.Pool.Delete(ended, d.ID); err == nil {
		f.CheckAbsent(d.ID)
	}
	f.OK(f.Pool.Delete(f.Ctx, d.ID))
	_, err := f.Pool.Reap(f.Ctx, func(uuid.UUID) bool { return false })
	f.OK(err)
	f.CheckAbsent(d.ID)
	if st := f.Pool.Status(f.Ctx); st.Leftovers != 0 {
		f.Errorf("%d deletions are pending after a complete reap", st.Leftovers)
	}
}
