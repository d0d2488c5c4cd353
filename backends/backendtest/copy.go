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
	if !f.can.Delta {
		return
	}
	d, s, plain := f.planted()
	f.write(d.ID, "later", "not in the snapshot")
	o := f.other()
	f.transfer(o, d, s, uuid.Nil)
	o.inState(d, backends.EntryCopy)
	o.open()
	o.inState(d, backends.EntryCopy)
	o.hasSnapshots(d.ID, s)
	o.fails(o.pool.Commit(f.ctx, d.ID), dataset.ErrConflict)
	o.fails(o.copier().Promote(f.ctx, d.ID, uuid.New()), dataset.ErrNotFound)

	f.twice(func() error { return o.copier().Promote(f.ctx, d.ID, s.ID) })
	o.open()
	e, err := o.pool.Stat(f.ctx, d.ID)
	if err != nil || e.State != backends.EntryCopy || !e.Promoted {
		f.Errorf("promoted, it is %+v, %v", e, err)
	}
	_, err = o.pool.Attach(f.ctx, d.ID, backends.AttachOptions{})
	f.fails(err, dataset.ErrConflict)
	o.reap(0, d.ID)
	f.twice(func() error { return o.pool.Commit(f.ctx, d.ID) })
	o.inStateWith(d, s)
	f.ok(o.copier().Promote(f.ctx, d.ID, s.ID)) // repeated: changes nothing
	m := o.mount(d.ID)
	f.equal(plain, m.root)
	f.ok(os.WriteFile(m.in("written"), nil, 0o600))
	m.unmount()
	f.ok(o.copier().Promote(f.ctx, d.ID, s.ID))
	f.ok(o.pool.Commit(f.ctx, d.ID))
	m = o.mount(d.ID)
	if _, err := os.Stat(m.in("written")); err != nil {
		f.Errorf("the written data is missing: %v", err)
	}
	m.unmount()
	o.reap(0)
	f.fails(o.receive(d, f.snapshot(d), uuid.Nil, 0, failing{errors.New("was read")}), dataset.ErrConflict)
}

// copyIsBroughtUpToDate transfers changes to a copy and back, as a replica and a move do.
func copyIsBroughtUpToDate(f *fixture) {
	if !f.can.Delta {
		return
	}
	d, first, _ := f.planted()
	o := f.other()
	f.transfer(o, d, first, uuid.Nil)
	m, plain := f.mount(d.ID), f.plain()
	f.ok(os.WriteFile(m.in("more"), treetest.Bytes(5, 3<<20), 0o600))
	f.ok(os.RemoveAll(m.in("wide")))
	f.ok(tree.Copy(f.ctx, m.root, plain, nil))
	m.unmount()
	second := f.take(d)
	second.Kind = dataset.SnapshotTransfer
	delta, _ := f.stream(second, first.ID)
	if whole, _ := f.stream(second, uuid.Nil); len(delta) >= len(whole) {
		f.Errorf("the difference takes %d bytes, the full stream %d", len(delta), len(whole))
	}
	change, err := f.copier().Changed(f.ctx, f.source(first), f.source(second))
	f.ok(err)
	if change.Bytes < 3<<20 || int64(len(delta)) > change.Bytes*105/100+1<<20 {
		f.Errorf("Changed returned %+v, the stream takes %d bytes", change, len(delta))
	}
	whole, err := f.copier().Changed(f.ctx, dataset.Source{}, f.source(second))
	if err != nil || whole.Bytes <= change.Bytes || whole.Zeroed != 0 {
		f.Errorf("Changed without a base returned %+v, %v", whole, err)
	}
	f.fails(o.receive(d, second, uuid.Nil, 0, bytes.NewReader(delta)), dataset.ErrConflict)
	f.ok(o.copier().Promote(f.ctx, d.ID, first.ID)) // as if a move was cancelled
	f.transfer(o, d, second, first.ID)
	o.hasSnapshots(d.ID, first, second)
	if e, err := o.pool.Stat(f.ctx, d.ID); err != nil || e.Promoted {
		f.Errorf("the head of another snapshot still exists: %+v, %v", e, err)
	}
	f.ok(o.copier().Promote(f.ctx, d.ID, first.ID))
	f.ok(o.copier().Promote(f.ctx, d.ID, second.ID))
	f.ok(o.pool.Commit(f.ctx, d.ID))
	m = o.mount(d.ID)
	f.equal(plain, m.root)
	m.unmount()

	f.twice(func() error { return f.copier().Demote(f.ctx, d.ID, second.ID) })
	o.write(d.ID, "there", "written on the other side")
	third := o.take(d)
	o.transfer(f, d, third, second.ID)
	f.ok(f.copier().Promote(f.ctx, d.ID, third.ID))
	f.ok(f.pool.Commit(f.ctx, d.ID))
	f.holds(d.ID, "there", "written on the other side")
	lacking := o.take(d)
	more, _ := o.stream(lacking, third.ID)
	f.fails(f.other().receive(d, lacking, third.ID, 0, bytes.NewReader(more)), dataset.ErrNotFound)
}

// whatACopyIsNot checks that a copy has no head, but can be read, listed, given a new record and destroyed.
func whatACopyIsNot(f *fixture) {
	if !f.can.Delta {
		return
	}
	d := f.create()
	f.write(d.ID, "file", "content")
	s := f.take(d)
	o := f.other()
	f.transfer(o, d, s, uuid.Nil)
	for what, call := range map[string]func() error{
		"create": func() error { _, err := o.pool.Create(f.ctx, d); return err },
		"clone": func() error {
			_, err := o.pool.Clone(f.ctx, o.record(), dataset.Source{Dataset: d.ID}, nil)
			return err
		},
		"attach": func() error { _, err := o.pool.Attach(f.ctx, d.ID, backends.AttachOptions{}); return err },
		"take":   func() error { return o.pool.Snapshot(f.ctx, o.snapshot(d), nil) },
		"used":   func() error { _, err := o.pool.Used(f.ctx, d.ID); return err },
		"restore": func() error {
			return o.pool.Restore(f.ctx, d.ID, s.ID, o.snapshot(d), nil)
		},
		"compare": func() error {
			_, err := o.copier().Changed(f.ctx, o.source(s), dataset.Source{Dataset: d.ID})
			return err
		},
	} {
		if err := call(); !isKind(err, dataset.ErrConflict) {
			f.Errorf("%s: %v", what, err)
		}
	}
	c := o.clone(o.source(s))
	o.holds(c.ID, "file", "content")
	ours, _ := f.stream(s, uuid.Nil)
	if theirs, _ := o.stream(s, uuid.Nil); len(theirs) == 0 || len(theirs) > 2*len(ours) {
		f.Errorf("forwarded, it takes %d bytes instead of %d", len(theirs), len(ours))
	}
	d.Volume, d.Epoch = "renamed", d.Epoch+1
	f.twice(func() error { return o.pool.WriteRecord(f.ctx, d, true) })
	o.inState(d, backends.EntryCopy)

	second := f.take(d)
	data, _ := f.stream(second, s.ID)
	f.ok(o.copier().Promote(f.ctx, d.ID, s.ID))
	if err := o.receive(d, second, s.ID, 0, bytes.NewReader(data[:len(data)-1])); err == nil {
		f.Error("a truncated stream was received")
	}
	e, err := o.pool.Stat(f.ctx, d.ID)
	want := backends.Partial{Snapshot: second.ID, Base: s.ID, Bytes: o.received(second).Bytes}
	if err != nil || e.Partial == nil || *e.Partial != want || want.Bytes == 0 {
		f.Errorf("the entry is %+v, %v", e, err)
	}
	f.twice(func() error { return o.pool.DeleteSnapshot(f.ctx, d.ID, second.ID) })
	if got := o.received(second); got.Bytes != 0 {
		f.Errorf("deleted, but %+v still exists", got)
	}
	f.ok(o.copier().Promote(f.ctx, d.ID, s.ID))
	f.twice(func() error { return o.pool.DeleteSnapshot(f.ctx, d.ID, s.ID) })
	o.hasSnapshots(d.ID)
	if e, err := o.pool.Stat(f.ctx, d.ID); err != nil || e.Promoted {
		f.Errorf("a head that no snapshot contains exists: %+v, %v", e, err)
	}
	f.twice(func() error { return o.pool.Delete(f.ctx, d.ID) })
	o.absent(d.ID)
	if got, err := o.copier().Received(f.ctx, d.ID, s.ID); err != nil || got != (backends.Received{}) {
		f.Errorf("an absent object returned %+v, %v", got, err)
	}
	f.fails(o.copier().Promote(f.ctx, d.ID, s.ID), dataset.ErrNotFound)
	f.fails(o.copier().Demote(f.ctx, d.ID, s.ID), dataset.ErrNotFound)
	f.fails(o.copier().Supersede(f.ctx, d.ID, s), dataset.ErrNotFound)
}

// homeBecomesCopy checks that a head is only removed if a snapshot has all its content.
func homeBecomesCopy(f *fixture) {
	if !f.can.Delta {
		return
	}
	d := f.create()
	f.write(d.ID, "file", "one")
	old := f.take(d)
	m := f.mount(d.ID)
	f.fails(f.copier().Demote(f.ctx, d.ID, old.ID), dataset.ErrInUse)
	f.ok(os.WriteFile(m.in("file"), []byte("two"), 0o600))
	m.unmount()
	f.fails(f.copier().Demote(f.ctx, d.ID, old.ID), dataset.ErrConflict)
	f.fails(f.copier().Demote(f.ctx, d.ID, uuid.New()), dataset.ErrNotFound)
	f.holds(d.ID, "file", "two")
	final := f.take(d)
	f.twice(func() error { return f.copier().Demote(f.ctx, d.ID, final.ID) })
	f.open()
	f.inState(d, backends.EntryCopy)
	f.hasSnapshots(d.ID, old, final)
	f.reap(0, d.ID)
	f.ok(f.copier().Promote(f.ctx, d.ID, final.ID))
	f.twice(func() error { return f.copier().Demote(f.ctx, d.ID, final.ID) })
	if e, err := f.pool.Stat(f.ctx, d.ID); err != nil || e.Promoted {
		f.Errorf("it is still promoted: %+v, %v", e, err)
	}
	f.ok(f.copier().Promote(f.ctx, d.ID, final.ID))
	f.ok(f.pool.Commit(f.ctx, d.ID))
	f.holds(d.ID, "file", "two")
	f.inStateWith(d, old, final)
}

// supersededHeadIsKept checks that writes after the last snapshot are kept.
func supersededHeadIsKept(f *fixture) {
	if !f.can.Delta {
		return
	}
	d := f.create()
	f.write(d.ID, "file", "one")
	old := f.take(d)
	f.write(d.ID, "file", "two")
	keep := f.snapshot(d)
	keep.Kind, keep.Name = dataset.SnapshotSuperseded, ""
	m := f.mount(d.ID)
	f.fails(f.copier().Supersede(f.ctx, d.ID, keep), dataset.ErrInUse)
	m.unmount()
	f.hasSnapshots(d.ID, old)
	f.twice(func() error { return f.copier().Supersede(f.ctx, d.ID, keep) })
	f.open()
	f.inState(d, backends.EntryCopy)
	f.hasSnapshots(d.ID, old, keep)
	f.fails(f.copier().Supersede(f.ctx, d.ID, f.snapshot(d)), dataset.ErrConflict)
	f.holds(f.clone(f.source(keep)).ID, "file", "two")
	f.ok(f.copier().Promote(f.ctx, d.ID, old.ID))
	f.ok(f.pool.Commit(f.ctx, d.ID))
	f.holds(d.ID, "file", "one")
	f.holds(f.clone(f.source(keep)).ID, "file", "two")
	f.reap(0)
}
