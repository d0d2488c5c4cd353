package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/tree"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/assert"
)

// Mounts mounts the datasets of a pool as an agent does, and writes to them as a container does.
type Mounts struct {
	Datasets
	Unsupported []string // the operations of treetest that the backend does not support
	count       int      // the number of mount points made
}

// Mounted is a dataset mounted by the suite.
type Mounted struct {
	Path string   // the mount point, or "" after Unmount
	Root *os.File // the root directory of the dataset
	f    *Checks
}

// Mount mounts a dataset as the agent does.
func (f *Mounts) Mount(id uuid.UUID) *Mounted {
	f.Helper()
	return f.MountWith(id, backends.AttachOptions{})
}

// MountWith mounts a dataset with options of its attachment.
func (f *Mounts) MountWith(id uuid.UUID, opts backends.AttachOptions) *Mounted {
	f.Helper()
	a, err := f.Pool.Attach(f.Ctx, id, opts)
	f.OK(err)
	m := f.MountOf(a)
	if a.Mount.Grow && !opts.ReadOnly {
		f.OK(f.Pool.(backends.Resizer).Grow(f.Ctx, id, m.Root))
	}
	return m
}

// MountOf mounts an attachment, and releases it.
func (f *Mounts) MountOf(a backends.Attachment) *Mounted {
	f.Helper()
	f.count++
	m := &Mounted{f: &f.Checks, Path: filepath.Join(f.TempDir(), fmt.Sprint("mnt", f.count))}
	err := errors.Join(os.Mkdir(m.Path, 0o700), mountOn(a.Mount, m.Path))
	assert.NoErrorf(f, a.Release(), "release")
	f.OK(err)
	f.Cleanup(m.Unmount)
	m.Root, err = os.Open(m.Path)
	f.OK(err)
	return m
}

// Unmount unmounts the dataset. Idempotent.
func (m *Mounted) Unmount() {
	m.f.Helper()
	if m.Path == "" {
		return
	}
	if m.Root != nil {
		_ = m.Root.Close()
	}
	assert.NoErrorf(m.f, mount.Unmount(m.Path), "unmount")
	m.Path = ""
}

// PathOf returns the path of a file in the dataset.
func (m *Mounted) PathOf(name string) string { return filepath.Join(m.Path, name) }

// Write mounts a dataset and writes a file with a content into it.
func (f *Mounts) Write(id uuid.UUID, name, content string) {
	f.Helper()
	m := f.Mount(id)
	defer m.Unmount()
	f.OK(os.WriteFile(m.PathOf(name), []byte(content), 0o644))
}

// CheckContent mounts a dataset, and fails unless a file in it has the given content. If content is "", the file must
// not exist.
func (f *Mounts) CheckContent(id uuid.UUID, name, content string) {
	f.Helper()
	m := f.Mount(id)
	defer m.Unmount()
	b, err := os.ReadFile(m.PathOf(name))
	if content == "" && errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil || string(b) != content {
		f.Fatalf("%s holds %q (%v), want %q", name, b, err, content)
	}
}

// CheckEqual fails unless two trees are equal. It ignores modification times if the backend does not support them.
func (f *Mounts) CheckEqual(a, b *os.File) {
	f.Helper()
	found, err := tree.Compare(f.Ctx, a, b)
	f.OK(err)
	found = slices.DeleteFunc(found, func(d tree.Difference) bool {
		return d.What == "modification time" && slices.Contains(f.Unsupported, treetest.Times)
	})
	for _, d := range found[:min(len(found), 20)] {
		f.Errorf("differs: %s", d)
	}
	if len(found) > 0 {
		f.FailNow()
	}
}

// MakePlainDir makes a plain directory, and opens it.
func (f *Mounts) MakePlainDir() *os.File {
	f.Helper()
	dir, err := os.Open(f.TempDir())
	f.OK(err)
	f.Cleanup(func() { f.OK(dir.Close()) })
	return dir
}

// UnmountToCopy prepares a mounted dataset for a call that copies it. If the pool cannot copy a mounted dataset, it
// unmounts m and returns nil. Otherwise it does nothing and returns m.
func (f *Mounts) UnmountToCopy(m *Mounted) *Mounted {
	f.Helper()
	if f.Can.InstantSnapshot {
		return m
	}
	m.Unmount()
	return nil
}

// Remount mounts a dataset again if UnmountToCopy has unmounted it. m is the result of UnmountToCopy.
func (f *Mounts) Remount(id uuid.UUID, m *Mounted) *Mounted {
	f.Helper()
	if m == nil {
		m = f.Mount(id)
	}
	return m
}

// Fill writes a file until the dataset is full, and returns the number of written bytes.
func (f *Mounts) Fill(m *Mounted) (written int64) {
	f.Helper()
	f.AsContainer(func() { written = f.fillUp(m) })
	return written
}

func (f *Mounts) fillUp(m *Mounted) int64 {
	f.Helper()
	file, err := os.Create(m.PathOf("fill"))
	f.OK(err)
	defer file.Close()
	buf, written := treetest.Bytes(3, 1<<20), int64(0)
	for {
		n, err := file.Write(buf)
		written += int64(n)
		if err == nil {
			continue
		}
		if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
			f.Fatalf("a full dataset returns %v", err)
		}
		if err := file.Sync(); err != nil && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
			f.Fatalf("flushing a full dataset returns %v", err)
		}
		return written
	}
}

// FreeSpace returns how many more bytes fit into the dataset, and fills the dataset as Fill does. If the dataset has
// its own filesystem, FreeSpace saves time: it allocates the space without writing it, and writes only the last part.
func (f *Mounts) FreeSpace(m *Mounted) (fits int64) {
	f.Helper()
	if !f.Can.OwnFilesystem {
		return f.Fill(m)
	}
	file, err := os.Create(m.PathOf("fill"))
	f.OK(err)
	defer file.Close()
	const step = 4 << 20
	for {
		err := unix.Fallocate(int(file.Fd()), 0, fits, step)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		f.OK(err)
		fits += step
	}
	_, err = file.WriteAt(treetest.Bytes(3, step), fits-step)
	f.OK(err)
	f.OK(file.Sync())
	return fits
}

// AsContainer calls do without a capability that containers do not have by default: with CAP_SYS_RESOURCE the
// quotas of ext4 have no effect.
func (f *Mounts) AsContainer(do func()) {
	f.Helper()
	runtime.LockOSThread() // capabilities belong to a thread
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	f.OK(unix.Capget(&header, &had[0]))
	less := had
	less[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
	f.OK(unix.Capset(&header, &less[0]))
	defer func() { f.OK(unix.Capset(&header, &had[0])) }()
	do()
}

func mountOn(m backends.Mount, target string) error {
	if m.FSType != "bind" {
		options := m.Options
		if m.Flags.NoDev {
			options = append(options[:len(options):len(options)], "nodev")
		}
		return mount.Mount(target, mount.Spec{
			Source:   m.Source,
			FSType:   m.FSType,
			Options:  options,
			ReadOnly: m.Flags.ReadOnly,
		})
	}
	src, err := os.Open(m.Source)
	if err != nil {
		return err
	}
	defer src.Close()
	return mount.Bind(src, target, mount.BindFlags{ReadOnly: m.Flags.ReadOnly, NoDev: m.Flags.NoDev})
}

// longestFreeze is the time after which a filesystem is thawed, even if its snapshot is not finished.
const longestFreeze = 20 * time.Second

// WhileFrozen calls do while the filesystem of a mount is frozen and a thread of this process tries to write to it.
func (f *Mounts) WhileFrozen(m *Mounted, do func()) {
	f.Helper()
	f.OK(fsctl.Freeze(m.Root))
	thaw := sync.OnceValue(func() error { return fsctl.Thaw(m.Root) })
	late := time.AfterFunc(longestFreeze, func() { _ = thaw() })
	defer late.Stop()
	defer func() { f.OK(thaw()) }() // thaw before the unmount, even after a failure
	thread, written := make(chan int, 1), make(chan error, 1)
	path := m.PathOf("meanwhile")
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		written <- os.WriteFile(path, []byte("written"), 0o600)
	}()
	blocked := isBlocked(<-thread, written)
	if blocked {
		do()
		blocked = len(written) == 0
	}
	if !blocked {
		f.Errorf("a frozen filesystem is written to")
	}
	f.OK(thaw())
	f.OK(<-written)
}

// isBlocked waits until a thread is blocked in the kernel in an uninterruptible wait (state D of proc_pid_stat(5)), and
// returns true then. It returns false if the thread ends first, or is not blocked within 10 s.
func isBlocked(thread int, ended chan error) bool {
	for range 1000 {
		if len(ended) > 0 {
			return false
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/stat", thread))
		if _, rest, ok := bytes.Cut(stat, []byte(") ")); ok && rest[0] == 'D' {
			return true
		} else if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

// Space returns what df shows inside a dataset, in bytes.
func (f *Mounts) Space(m *Mounted) (total, free int64) {
	f.Helper()
	var st unix.Statfs_t
	f.OK(unix.Fstatfs(int(m.Root.Fd()), &st))
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize
}

// Resize resizes a dataset twice to the same size.
func (f *Mounts) Resize(d dataset.Dataset, size dataset.Size, m *Mounted) {
	f.Helper()
	var root *os.File
	if m != nil {
		root = m.Root
	}
	f.Twice(func() error { return f.Pool.(backends.Resizer).Resize(f.Ctx, d.ID, size, root) })
}
