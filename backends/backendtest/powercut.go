package backendtest

import (
	"bytes"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// Disk is one whose power can be cut, mounted somewhere.
type Disk struct {
	Path string
	// copies the disk, without the writes that the kernel has not sent, and returns the mount of the copy
	Copy func() string
}

// PowerCut takes the power away from a pool of kind right after each call that promises to be
// durable when it returns: the disk is copied as it is then and the pool on the copy opened.
// Writes that the kernel had not sent are lost. It needs root; see package powercut.
func PowerCut[R Runner[R]](t R, kind backends.Kind, name string, newDisk func(R) Disk) {
	for _, c := range []struct {
		name string
		run  func(f *fixture, cut func() *fixture)
	}{
		{"Create", cutCreate},
		{"Snapshot", cutSnapshot},
		{"DeleteSnapshot", cutDeleteSnapshot},
		{"Clone", cutClone},
		{"Restore", cutRestore},
		{"WriteRecord", cutWriteRecord},
		{"Delete", cutDelete},
		{"Resize", cutResize},
		{"Receive", cutReceive},
		{"Promote", cutPromote},
		{"Demote", cutDemote},
		{"Supersede", cutSupersede},
	} {
		t.Run("PowerCut/"+name+"/"+c.name, func(t R) {
			var disk Disk
			f := newFixture(t, func() (backends.Kind, backends.Config) {
				disk = newDisk(t)
				return kind, backends.Config{Name: "test", Path: filepath.Join(disk.Path, "pool")}
			})
			mine := disk // another pool has another
			c.run(f, func() *fixture { return f.cut(mine) })
		})
	}
}

// cut copies the disk and returns the pool on the copy.
func (f *fixture) cut(disk Disk) *fixture {
	f.Helper()
	after := *f
	after.pool = nil
	after.cfg.Path = filepath.Join(disk.Copy(), "pool")
	after.cfg.Make = false
	after.open()
	return &after
}

func cutCreate(f *fixture, cut func() *fixture) {
	d := f.record()
	mode := uint32(0o750)
	d.Profile.Owner = &dataset.Owner{UID: 999, GID: 998, Mode: &mode}
	_, err := f.pool.Create(f.ctx, d)
	f.ok(err)
	after := cut()
	after.inState(d, backends.EntryIncoming)
	m := after.mount(d.ID)
	var st unix.Stat_t
	f.ok(unix.Fstat(int(m.root.Fd()), &st))
	if st.Uid != 999 || st.Gid != 998 || st.Mode != unix.S_IFDIR|0o750 {
		f.Errorf("after a power cut the root is %d:%d %o", st.Uid, st.Gid, st.Mode)
	}
}

func cutSnapshot(f *fixture, cut func() *fixture) {
	d := f.create()
	f.write(d.ID, "file", "content")
	s := f.take(d)
	after := cut()
	after.hasSnapshots(d.ID, s)
	after.holds(after.clone(f.source(s)).ID, "file", "content")
}

func cutDeleteSnapshot(f *fixture, cut func() *fixture) {
	d := f.create()
	s := f.take(d)
	f.commitJournal() // it is on the disk, to be seen again if its end is not
	f.ok(f.pool.DeleteSnapshot(f.ctx, d.ID, s.ID))
	cut().hasSnapshots(d.ID)
}

func cutClone(f *fixture, cut func() *fixture) {
	d := f.create()
	f.write(d.ID, "file", "content")
	c := f.record()
	_, err := f.pool.Clone(f.ctx, c, dataset.Source{Dataset: d.ID}, nil)
	f.ok(err)
	after := cut()
	after.inState(c, backends.EntryIncoming)
	after.holds(c.ID, "file", "content")
}

func cutRestore(f *fixture, cut func() *fixture) {
	d := f.create()
	f.write(d.ID, "file", "old")
	s := f.take(d)
	f.write(d.ID, "file", "new")
	keep := f.snapshot(d)
	f.ok(f.pool.Restore(f.ctx, d.ID, s.ID, keep, nil))
	after := cut()
	after.hasSnapshots(d.ID, s, keep)
	after.holds(d.ID, "file", "old")
	after.holds(after.clone(f.source(keep)).ID, "file", "new")
}

// cutWriteRecord checks that a durable write left the new record, and another one left either record, complete.
func cutWriteRecord(f *fixture, cut func() *fixture) {
	d := f.create()
	d.Volume = "second"
	f.ok(f.pool.WriteRecord(f.ctx, d, true))
	e, err := cut().pool.Stat(f.ctx, d.ID)
	f.ok(err)
	if e.Record == nil || e.Record.Volume != "second" {
		f.Errorf("after a power cut the record is %+v (%s)", e.Record, e.Problem)
	}
	d.Volume = "third"
	f.ok(f.pool.WriteRecord(f.ctx, d, false))
	f.commitJournal()
	e, err = cut().pool.Stat(f.ctx, d.ID)
	f.ok(err)
	if e.Record == nil || (e.Record.Volume != "second" && e.Record.Volume != "third") {
		f.Errorf("after a power cut the record is %+v (%s)", e.Record, e.Problem)
	}
}

func cutDelete(f *fixture, cut func() *fixture) {
	d, incoming := f.create(), f.record()
	_, err := f.pool.Create(f.ctx, incoming)
	f.ok(err)
	f.commitJournal() // their creation is on the disk, to be seen again if their end is not
	f.ok(f.pool.Delete(f.ctx, d.ID))
	f.ok(f.pool.Delete(f.ctx, incoming.ID))
	after := cut()
	after.absent(d.ID)
	after.absent(incoming.ID)
	_, err = after.pool.Reap(f.ctx, func(uuid.UUID) bool { return false })
	f.ok(err)
}

// cutReceive brings a snapshot back that another pool has.
func cutReceive(f *fixture, cut func() *fixture) {
	if !f.can.Delta {
		return
	}
	o := f.other()
	d := o.create()
	o.write(d.ID, "file", "content")
	s := o.take(d)
	data, _ := o.stream(s, uuid.Nil)
	f.ok(f.receive(d, s, uuid.Nil, 0, bytes.NewReader(data)))
	after := cut()
	after.inState(d, backends.EntryCopy)
	after.hasSnapshots(d.ID, s)
	after.holds(after.clone(f.source(s)).ID, "file", "content")
}

// cutPromote checks that writes to a home are there, and not in the head of a copy.
func cutPromote(f *fixture, cut func() *fixture) {
	if !f.can.Delta {
		return
	}
	d := f.create()
	s := f.take(d)
	f.ok(f.copier().Demote(f.ctx, d.ID, s.ID))
	f.ok(f.copier().Promote(f.ctx, d.ID, s.ID))
	f.ok(f.pool.Commit(f.ctx, d.ID))
	after := cut()
	after.inStateWith(d, s)
	after.holds(d.ID, "file", "")
}

func cutDemote(f *fixture, cut func() *fixture) {
	if !f.can.Delta {
		return
	}
	d := f.create()
	f.write(d.ID, "file", "content")
	s := f.take(d)
	f.ok(f.copier().Demote(f.ctx, d.ID, s.ID))
	after := cut()
	after.inState(d, backends.EntryCopy)
	after.hasSnapshots(d.ID, s)
	after.holds(after.clone(f.source(s)).ID, "file", "content")
}

func cutSupersede(f *fixture, cut func() *fixture) {
	if !f.can.Delta {
		return
	}
	d := f.create()
	f.write(d.ID, "file", "content")
	keep := f.snapshot(d)
	keep.Kind = dataset.SnapshotSuperseded
	f.ok(f.copier().Supersede(f.ctx, d.ID, keep))
	after := cut()
	after.inState(d, backends.EntryCopy)
	after.hasSnapshots(d.ID, keep)
	after.holds(after.clone(f.source(keep)).ID, "file", "content")
}

func cutResize(f *fixture, cut func() *fixture) {
	if _, ok := f.pool.(backends.Resizer); !ok {
		return
	}
	d := f.sized(small)
	w := f.mount(d.ID)
	f.ok(os.WriteFile(w.in("file"), []byte("content"), 0o600))
	f.ok(unix.Syncfs(int(w.root.Fd())))
	w.unmount()
	f.resize(d, large, nil)
	after := cut()
	after.holds(d.ID, "file", "content")
	m := after.mount(d.ID)
	if total, _ := f.space(m); f.can.OwnFilesystem && total < int64(large)*85/100 {
		f.Errorf("after a power cut df in %s shows %d", large, total)
	}
	if written := f.fill(m); !f.can.OwnFilesystem && written < int64(small) {
		f.Errorf("after a power cut %d bytes fit into %s", written, large)
	}
}
