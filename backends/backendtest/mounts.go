package backendtest

import (
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
	"github.com/droverhq/drover/backends/backendtest/harness"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/tree"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// mounts mounts the datasets of a pool as an agent does, and writes to them as a container does.
type mounts struct {
	harness.Datasets
	count       int      // the number of mount points made
	unsupported []string // the file properties that the backend does not keep
}

// mounted is a dataset mounted by the suite.
type mounted struct {
	f    *harness.Checks
	path string
	root *os.File
}

// mount mounts a dataset as the agent does.
func (f *mounts) mount(id uuid.UUID) *mounted {
	f.Helper()
	return f.mountWith(id, backends.AttachOptions{})
}

func (f *mounts) mountWith(id uuid.UUID, opts backends.AttachOptions) *mounted {
	f.Helper()
	a, err := f.Pool.Attach(f.Ctx, id, opts)
	f.OK(err)
	m := f.mountOf(a)
	if a.Mount.Grow && !opts.ReadOnly {
		f.OK(f.Pool.(backends.Resizer).Grow(f.Ctx, id, m.root))
	}
	return m
}

// mountOf mounts an attachment, and releases it.
func (f *mounts) mountOf(a backends.Attachment) *mounted {
	f.Helper()
	f.count++
	m := &mounted{f: &f.Checks, path: filepath.Join(f.TempDir(), fmt.Sprint("mnt", f.count))}
	err := errors.Join(os.Mkdir(m.path, 0o700), mountOn(a.Mount, m.path))
	if rErr := a.Release(); rErr != nil {
		f.Errorf("release: %v", rErr)
	}
	f.OK(err)
	f.Cleanup(m.unmount)
	m.root, err = os.Open(m.path)
	f.OK(err)
	return m
}

// write mounts a dataset and writes a file with a content into it.
func (f *mounts) write(id uuid.UUID, name, content string) {
	f.Helper()
	m := f.mount(id)
	defer m.unmount()
	f.OK(os.WriteFile(m.pathOf(name), []byte(content), 0o644))
}

// checkFile mounts a dataset, and fails unless a file in it has the given content. If content is "", the file must not
// exist.
func (f *mounts) checkFile(id uuid.UUID, name, content string) {
	f.Helper()
	m := f.mount(id)
	defer m.unmount()
	b, err := os.ReadFile(m.pathOf(name))
	if content == "" && errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil || string(b) != content {
		f.Fatalf("%s holds %q (%v), want %q", name, b, err, content)
	}
}

// equal fails unless two trees are equal.
func (f *mounts) equal(a, b *os.File) {
	f.Helper()
	found, err := tree.Compare(f.Ctx, a, b)
	f.OK(err)
	found = slices.DeleteFunc(found, func(d tree.Difference) bool {
		return d.What == "modification time" && slices.Contains(f.unsupported, treetest.Times)
	})
	for _, d := range found[:min(len(found), 20)] {
		f.Errorf("differs: %s", d)
	}
	if len(found) > 0 {
		f.FailNow()
	}
}

// makePlainDir makes a plain directory, and opens it.
func (f *mounts) makePlainDir() *os.File {
	f.Helper()
	dir, err := os.Open(f.TempDir())
	f.OK(err)
	f.Cleanup(func() { f.OK(dir.Close()) })
	return dir
}

// unmountToCopy prepares a mounted dataset for a call that copies it. If the pool cannot copy a mounted dataset, it
// unmounts m and returns nil. Otherwise it does nothing and returns m.
func (f *mounts) unmountToCopy(m *mounted) *mounted {
	f.Helper()
	if f.Can.InstantSnapshot {
		return m
	}
	m.unmount()
	return nil
}

// remount mounts a dataset that unmountToCopy has unmounted.
func (f *mounts) remount(id uuid.UUID, m *mounted) *mounted {
	f.Helper()
	if m == nil {
		m = f.mount(id)
	}
	return m
}

// fillHalf writes a file of the size half.
func (f *mounts) fillHalf(m *mounted) error {
	file, err := os.Create(m.pathOf("half"))
	f.OK(err)
	defer file.Close()
	f.asContainer(func() {
		for buf, n := treetest.Bytes(3, 1<<20), dataset.Size(0); err == nil && n < half; n += dataset.MiB {
			_, err = file.Write(buf)
		}
		err = errors.Join(err, file.Sync())
	})
	return err
}

// fill writes a file until the dataset is full, and returns the number of written bytes.
func (f *mounts) fill(m *mounted) (written int64) {
	f.Helper()
	f.asContainer(func() { written = f.fillUp(m) })
	return written
}

func (f *mounts) fillUp(m *mounted) int64 {
	f.Helper()
	file, err := os.Create(m.pathOf("fill"))
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

// freeSpace returns how many more bytes fit into the dataset, and fills the dataset as fill does. If the dataset has
// its own filesystem, freeSpace saves time: it allocates the space without writing it, and writes only the last part.
func (f *mounts) freeSpace(m *mounted) (fits int64) {
	f.Helper()
	if !f.Can.OwnFilesystem {
		return f.fill(m)
	}
	file, err := os.Create(m.pathOf("fill"))
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

// asContainer calls do without a capability that containers do not have by default: with CAP_SYS_RESOURCE the
// quotas of ext4 have no effect.
func (f *mounts) asContainer(do func()) {
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

// whileFrozen calls do while the filesystem of a mount is frozen and a thread of this process tries to write to it.
func (f *mounts) whileFrozen(m *mounted, do func()) {
	f.Helper()
	f.OK(fsctl.Freeze(m.root))
	thaw := sync.OnceValue(func() error { return fsctl.Thaw(m.root) })
	late := time.AfterFunc(longestFreeze, func() { _ = thaw() })
	defer late.Stop()
	defer func() { f.OK(thaw()) }() // thaw before the unmount, even after a failure
	thread, written := make(chan int, 1), make(chan error, 1)
	path := m.pathOf("meanwhile")
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

// space returns what df shows inside a dataset, in bytes.
func (f *mounts) space(m *mounted) (total, free int64) {
	f.Helper()
	var st unix.Statfs_t
	f.OK(unix.Fstatfs(int(m.root.Fd()), &st))
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize
}

// resize resizes a dataset twice to the same size.
func (f *mounts) resize(d dataset.Dataset, size dataset.Size, m *mounted) {
	f.Helper()
	var root *os.File
	if m != nil {
		root = m.root
	}
	f.Twice(func() error { return f.Pool.(backends.Resizer).Resize(f.Ctx, d.ID, size, root) })
}
