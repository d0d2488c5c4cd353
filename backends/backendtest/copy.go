package backendtest

import (
	"bytes"
	"errors"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// copyBecomesHome transfers a dataset: it is a copy until it is promoted and committed, and then has its
// former content.
func copyBecomesHome(f *fixture) {
	if !f.Can.Delta {
		return
	}
	d, s, plain := f.planted()
	f.Write(d.ID, "later", "not in the snapshot")
	o := f.other()
	f.transfer(o, d, s, uuid.Nil)
	o.CheckState(d, backends.EntryCopy)
	o.Open()
	o.CheckState(d, backends.EntryCopy)
	o.CheckSnapshots(d.ID, s)
	o.CheckFails(o.Pool.Commit(f.Ctx, d.ID), dataset.ErrConflict)
	o.CheckFails(o.Copier().Promote(f.Ctx, d.ID, uuid.New()), dataset.ErrNotFound)

	f.Twice(func() error { return o.Copier().Promote(f.Ctx, d.ID, s.ID) })
	o.Open()
	e, err := o.Pool.Stat(f.Ctx, d.ID)
	if err != nil || e.State != backends.EntryCopy || !e.Promoted {
		f.Errorf("promoted, it is %+v, %v", e, err)
	}
	_, err = o.Pool.Attach(f.Ctx, d.ID, backends.AttachOptions{})
	f.CheckFails(err, dataset.ErrConflict)
	o.Reap(0, d.ID)
	f.Twice(func() error { return o.Pool.Commit(f.Ctx, d.ID) })
	o.CheckReady(d, s)
	f.OK(o.Copier().Promote(f.Ctx, d.ID, s.ID)) // repeated: changes nothing
	m := o.Mount(d.ID)
	f.CheckEqual(plain, m.Root)
	f.OK(os.WriteFile(m.PathOf("written"), nil, 0o600))
	m.Unmount()
	f.OK(o.Copier().Promote(f.Ctx, d.ID, s.ID))
	f.OK(o.Pool.Commit(f.Ctx, d.ID))
	m = o.Mount(d.ID)
	if _, err := os.Stat(m.PathOf("written")); err != nil {
		f.Errorf("the written data is missing: %v", err)
	}
	m.Unmount()
	o.Reap(0)
	f.CheckFails(o.receive(d, f.NewSnapshot(d), uuid.Nil, 0, failing{errors.New("was read")}), dataset.ErrConflict)
}

// copyIsUpdated transfers changes to a copy and back, as a replica and a move do.
func copyIsUpdated(f *fixture) {
	if !f.Can.Delta {
		return
	}
	d, first, _ := f.planted()
	o := f.other()
	f.transfer(o, d, first, uuid.Nil)
	m, plain := f.Mount(d.ID), f.MakePlainDir()
	f.OK(os.WriteFile(m.PathOf("more"), treetest.Bytes(5, 3<<20), 0o600))
	f.OK(os.RemoveAll(m.PathOf("wide")))
	f.OK(tree.Copy(f.Ctx, m.Root, plain, nil))
	m.Unmount()
	second := f.TakeSnapshot(d)
	second.Kind = dataset.SnapshotTransfer
	difference, _ := f.stream(second, first.ID)
	if whole, _ := f.stream(second, uuid.Nil); len(difference) >= len(whole) {
		f.Errorf("the difference takes %d bytes, the full stream %d", len(difference), len(whole))
	}
	change, err := f.Copier().Changed(f.Ctx, f.Source(first), f.Source(second))
	f.OK(err)
	if change.Bytes < 3<<20 || int64(len(difference)) > change.Bytes*105/100+1<<20 {
		f.Errorf("Changed returned %+v, the stream takes %d bytes", change, len(difference))
	}
	whole, err := f.Copier().Changed(f.Ctx, dataset.Source{}, f.Source(second))
	if err != nil || whole.Bytes <= change.Bytes || whole.Zeroed != 0 {
		f.Errorf("Changed without a base returned %+v, %v", whole, err)
	}
	f.CheckFails(o.receive(d, second, uuid.Nil, 0, bytes.NewReader(difference)), dataset.ErrCorrupt)
	f.OK(o.Copier().Promote(f.Ctx, d.ID, first.ID)) // as if a move was cancelled
	f.transfer(o, d, second, first.ID)
	o.CheckSnapshots(d.ID, first, second)
	if e, err := o.Pool.Stat(f.Ctx, d.ID); err != nil || e.Promoted {
		f.Errorf("the head of another snapshot still exists: %+v, %v", e, err)
	}
	f.OK(o.Copier().Promote(f.Ctx, d.ID, first.ID))
	f.OK(o.Copier().Promote(f.Ctx, d.ID, second.ID))
	f.OK(o.Pool.Commit(f.Ctx, d.ID))
	m = o.Mount(d.ID)
	f.CheckEqual(plain, m.Root)
	m.Unmount()

	f.Twice(func() error { return f.Copier().Demote(f.Ctx, d.ID, second.ID) })
	o.Write(d.ID, "there", "written on the other side")
	third := o.TakeSnapshot(d)
	o.transfer(f, d, third, second.ID)
	f.OK(f.Copier().Promote(f.Ctx, d.ID, third.ID))
	f.OK(f.Pool.Commit(f.Ctx, d.ID))
	f.CheckContent(d.ID, "there", "written on the other side")
	lacking := o.TakeSnapshot(d)
	more, _ := o.stream(lacking, third.ID)
	f.CheckFails(f.other().receive(d, lacking, third.ID, 0, bytes.NewReader(more)), dataset.ErrNotFound)
}

// copyHasNoHead checks that a copy has no head, but can be read, listed, given a new record and destroyed.
func copyHasNoHead(f *fixture) {
	if !f.Can.Delta {
		return
	}
	d := f.Create()
	f.Write(d.ID, "file", "content")
	s := f.TakeSnapshot(d)
	o := f.other()
	f.transfer(o, d, s, uuid.Nil)
	for what, call := range map[string]func() error{
		"create": func() error { _, err := o.Pool.Create(f.Ctx, d); return err },
		"clone": func() error {
			_, err := o.Pool.Clone(f.Ctx, o.Record(), dataset.Source{Dataset: d.ID}, nil)
			return err
		},
		"attach": func() error { _, err := o.Pool.Attach(f.Ctx, d.ID, backends.AttachOptions{}); return err },
		"take":   func() error { return o.Pool.Snapshot(f.Ctx, o.NewSnapshot(d), nil) },
		"used":   func() error { _, err := o.Pool.Used(f.Ctx, d.ID); return err },
		"restore": func() error {
			return o.Pool.Restore(f.Ctx, d.ID, s.ID, o.NewSnapshot(d), nil)
		},
		"compare": func() error {
			_, err := o.Copier().Changed(f.Ctx, o.Source(s), dataset.Source{Dataset: d.ID})
			return err
		},
	} {
		if err := call(); !isKind(err, dataset.ErrConflict) {
			f.Errorf("%s: %v", what, err)
		}
	}
	c := o.Clone(o.Source(s))
	o.CheckContent(c.ID, "file", "content")
	ours, _ := f.stream(s, uuid.Nil)
	if theirs, _ := o.stream(s, uuid.Nil); len(theirs) == 0 || len(theirs) > 2*len(ours) {
		f.Errorf("forwarded, it takes %d bytes instead of %d", len(theirs), len(ours))
	}
	d.Volume, d.Epoch = "renamed", d.Epoch+1
	f.Twice(func() error { return o.Pool.WriteRecord(f.Ctx, d, true) })
	o.CheckState(d, backends.EntryCopy)

	second := f.TakeSnapshot(d)
	data, _ := f.stream(second, s.ID)
	f.OK(o.Copier().Promote(f.Ctx, d.ID, s.ID))
	if err := o.receive(d, second, s.ID, 0, bytes.NewReader(data[:len(data)-1])); err == nil {
		f.Error("a truncated stream was received")
	}
	e, err := o.Pool.Stat(f.Ctx, d.ID)
	want := backends.Partial{Snapshot: second.ID, Base: s.ID, Bytes: o.received(second).Bytes}
	if err != nil || e.Partial == nil || *e.Partial != want || want.Bytes == 0 {
		f.Errorf("the entry is %+v, %v", e, err)
	}
	f.Twice(func() error { return o.Pool.DeleteSnapshot(f.Ctx, d.ID, second.ID) })
	if got := o.received(second); got.Bytes != 0 {
		f.Errorf("deleted, but %+v still exists", got)
	}
	f.OK(o.Copier().Promote(f.Ctx, d.ID, s.ID))
	f.Twice(func() error { return o.Pool.DeleteSnapshot(f.Ctx, d.ID, s.ID) })
	o.CheckSnapshots(d.ID)
	if e, err := o.Pool.Stat(f.Ctx, d.ID); err != nil || e.Promoted {
		f.Errorf("a head that no snapshot contains exists: %+v, %v", e, err)
	}
	f.Twice(func() error { return o.Pool.Delete(f.Ctx, d.ID) })
	o.CheckAbsent(d.ID)
	if got, err := o.Copier().Received(f.Ctx, d.ID, s.ID); err != nil || got != (backends.Received{}) {
		f.Errorf("an absent object returned %+v, %v", got, err)
	}
	f.CheckFails(o.Copier().Promote(f.Ctx, d.ID, s.ID), dataset.ErrNotFound)
	f.CheckFails(o.Copier().Demote(f.Ctx, d.ID, s.ID), dataset.ErrNotFound)
	f.CheckFails(o.Copier().Supersede(f.Ctx, d.ID, s), dataset.ErrNotFound)
}

// homeBecomesCopy checks that a head is only removed if a snapshot has all its content.
func homeBecomesCopy(f *fixture) {
	if !f.Can.Delta {
		return
	}
	d := f.Create()
	f.Write(d.ID, "file", "one")
	old := f.TakeSnapshot(d)
	m := f.Mount(d.ID)
	f.CheckFails(f.Copier().Demote(f.Ctx, d.ID, old.ID), dataset.ErrInUse)
	f.OK(os.WriteFile(m.PathOf("file"), []byte("two"), 0o600))
	m.Unmount()
	f.CheckFails(f.Copier().Demote(f.Ctx, d.ID, old.ID), dataset.ErrConflict)
	f.CheckFails(f.Copier().Demote(f.Ctx, d.ID, uuid.New()), dataset.ErrNotFound)
	f.CheckContent(d.ID, "file", "two")
	final := f.TakeSnapshot(d)
	f.Twice(func() error { return f.Copier().Demote(f.Ctx, d.ID, final.ID) })
	f.Open()
	f.CheckState(d, backends.EntryCopy)
	f.CheckSnapshots(d.ID, old, final)
	f.Reap(0, d.ID)
	f.OK(f.Copier().Promote(f.Ctx, d.ID, final.ID))
	f.Twice(func() error { return f.Copier().Demote(f.Ctx, d.ID, final.ID) })
	if e, err := f.Pool.Stat(f.Ctx, d.ID); err != nil || e.Promoted {
		f.Errorf("it is still promoted: %+v, %v", e, err)
	}
	f.OK(f.Copier().Promote(f.Ctx, d.ID, final.ID))
	f.OK(f.Pool.Commit(f.Ctx, d.ID))
	f.CheckContent(d.ID, "file", "two")
	f.CheckReady(d, old, final)
}

// supersededHeadIsKept checks that writes after the last snapshot are kept.
func supersededHeadIsKept(f *fixture) {
	if !f.Can.Delta {
		return
	}
	d := f.Create()
	f.Write(d.ID, "file", "one")
	old := f.TakeSnapshot(d)
	f.Write(d.ID, "file", "two")
	keep := f.NewSnapshot(d)
	keep.Kind, keep.Name = dataset.SnapshotSuperseded, ""
	m := f.Mount(d.ID)
	f.CheckFails(f.Copier().Supersede(f.Ctx, d.ID, keep), dataset.ErrInUse)
	m.Unmount()
	f.CheckSnapshots(d.ID, old)
	f.Twice(func() error { return f.Copier().Supersede(f.Ctx, d.ID, keep) })
	f.Open()
	f.CheckState(d, backends.EntryCopy)
	f.CheckSnapshots(d.ID, old, keep)
	f.CheckFails(f.Copier().Supersede(f.Ctx, d.ID, f.NewSnapshot(d)), dataset.ErrConflict)
	f.CheckContent(f.Clone(f.Source(keep)).ID, "file", "two")
	f.OK(f.Copier().Promote(f.Ctx, d.ID, old.ID))
	f.OK(f.Pool.Commit(f.Ctx, d.ID))
	f.CheckContent(d.ID, "file", "one")
	f.CheckContent(f.Clone(f.Source(keep)).ID, "file", "two")
	f.Reap(0)
}
