package backendtest

import (
	"os"
	"path/filepath"
	"slices"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
)

// Disk is a mounted disk whose power can be cut.
type Disk struct {
	Path string
	// Copy copies the disk without the writes that the kernel has not sent, and returns the mount point of the copy.
	Copy func() string
}

// PowerCut cuts the power right after each call that promises to be durable when it returns. It copies the disk at that
// moment, without the writes that the kernel has not sent, and opens the pool on the copy. It needs root; see package
// powercut.
func PowerCut[R Runner[R]](t R, kind backends.Kind, name string, newDisk func(R) Disk) {
	durable := []string{
		"create", "clone the head", "snapshot", "delete a snapshot", "restore", "delete", "delete a clone", "receive",
		"promote the last", "commit a copy", "demote", "supersede",
	}
	run := func(name string, do func(f *fixture, disk Disk)) {
		t.Run(name, func(t R) {
			var disk Disk
			f := newFixture(t, func() (backends.Kind, backends.Config) {
				disk = newDisk(t)
				return kind, backends.Config{Name: "test", Path: filepath.Join(disk.Path, "pool")}
			})
			do(f, disk)
		})
	}
	for _, o := range crashOperations() {
		if slices.Contains(durable, o.name) {
			run("PowerCut/"+name+"/"+o.name, o.cutAtEnd)
		}
	}
	run("PowerCut/"+name+"/record", cutWriteRecord)
	run("PowerCut/"+name+"/resize", cutResize)
}

// cutAtEnd cuts the power right after an operation on contents that nothing has flushed.
func (o operation) cutAtEnd(f *fixture, disk Disk) {
	f.Helper()
	if len(o.filesystems(f)) == 0 {
		return
	}
	s := &crashCase{fixture: f, o: o}
	t := s.prepareTrial()
	if o.removes {
		t.CommitJournal() // the removed files must be on the disk, so that a lost removal is noticed
	}
	t.OK(t.asCall(o).Run(t.Ctx, t.Pool))
	t.change(o.done(t))
	after := t.onDisk(disk.Copy())
	after.unflushed = true
	after.checkOutcomes(s, true)
	_, err := after.Pool.Reap(t.Ctx, func(uuid.UUID) bool { return false })
	t.OK(err)
}

// onDisk returns the pool on a copy of the disk.
func (f *fixture) onDisk(disk string) *fixture {
	f.Helper()
	after := *f
	after.Pool = nil
	after.Config.Path, after.Config.Make = filepath.Join(disk, "pool"), false
	after.Open()
	return &after
}

// cutWriteRecord cuts the power after WriteRecord. If sync was set, the pool must have the new record. Otherwise it
// must have the old or the new one, complete.
func cutWriteRecord(f *fixture, disk Disk) {
	cut := func() *fixture { return f.onDisk(disk.Copy()) }
	d := f.Create()
	d.Volume = "second"
	f.OK(f.Pool.WriteRecord(f.Ctx, d, true))
	e, err := cut().Pool.Stat(f.Ctx, d.ID)
	f.OK(err)
	if e.Record == nil || e.Record.Volume != "second" {
		f.Errorf("after a power cut the record is %+v (%s)", e.Record, e.Problem)
	}
	d.Volume = "third"
	f.OK(f.Pool.WriteRecord(f.Ctx, d, false))
	f.CommitJournal()
	e, err = cut().Pool.Stat(f.Ctx, d.ID)
	f.OK(err)
	if e.Record == nil || (e.Record.Volume != "second" && e.Record.Volume != "third") {
		f.Errorf("after a power cut the record is %+v (%s)", e.Record, e.Problem)
	}
}

func cutResize(f *fixture, disk Disk) {
	if _, ok := f.Pool.(backends.Resizer); !ok {
		return
	}
	d := f.Sized(small)
	w := f.Mount(d.ID)
	f.OK(os.WriteFile(w.PathOf("file"), []byte("content"), 0o600))
	f.OK(unix.Syncfs(int(w.Root.Fd())))
	w.Unmount()
	f.Resize(d, large, nil)
	after := f.onDisk(disk.Copy())
	after.CheckContent(d.ID, "file", "content")
	m := after.Mount(d.ID)
	if total, _ := f.Space(m); f.Can.OwnFilesystem && total < int64(large)*85/100 {
		f.Errorf("after a power cut df in %s shows %d", large, total)
	}
	if written := f.Fill(m); !f.Can.OwnFilesystem && written < int64(small) {
		f.Errorf("after a power cut %d bytes fit into %s", written, large)
	}
}
