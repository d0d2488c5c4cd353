package hand

import (
	"errors"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/mount"
)

// btrfs is the type of filesystem for which a mount table and stat(2) report different device
// numbers: each subvolume has one of its own (stat(2), st_dev).
const btrfs = "btrfs"

// mountTables are the mount tables that were read in one look, and the mounts in them by ID.
// Safe for concurrent use.
type mountTables struct {
	host string // the host's mount namespace

	mu    sync.Mutex
	views map[viewKey]*view
	byID  map[int]seenMount
}

// viewKey is what a process sees of the mounts: a namespace, from its root directory down, which
// chroot(2) may have moved.
type viewKey struct {
	ns   string
	root [3]uint64
}

func newMountTables(own mount.Mounts) (*mountTables, error) {
	host, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, err
	}
	m := &mountTables{host: host, views: map[viewKey]*view{}, byID: map[int]seenMount{}}
	m.add(own, nil)
	return m, nil
}

// add takes in a table. Of two that show the same mount the one with the longer path is right: the
// kernel reports open files by their path from the root of the namespace.
func (m *mountTables) add(table mount.Mounts, in *view) {
	for _, e := range table {
		if known, ok := m.byID[e.ID]; !ok || known.in != nil && len(e.Mountpoint) > len(known.Mountpoint) {
			m.byID[e.ID] = seenMount{e, in}
		}
	}
}

// of returns the mount table that a task sees, nil for one in the host's namespace. Its errors are
// those of mount.TableOf.
func (m *mountTables) of(task string) (*view, error) {
	ns, err := os.Readlink(task + "/ns/mnt")
	if errors.Is(err, fs.ErrPermission) {
		return m.ofPrivileged(task)
	}
	if err != nil || ns == m.host {
		return nil, err
	}
	root, err := rootOf(task)
	if err != nil {
		return nil, err
	}
	key := viewKey{ns, root}
	m.mu.Lock()
	v := m.views[key]
	m.mu.Unlock()
	if v != nil {
		return v, nil
	}
	table, err := mount.TableOf(task)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if v = m.views[key]; v == nil {
		v = &view{table, table.Index()}
		m.views[key] = v
		m.add(table, v)
	}
	return v, nil
}

// ofPrivileged is of for a task with capabilities that this process lacks. The kernel does not show
// the namespace of such a task (ptrace(2), access mode checks), but its mounts. Mounts have IDs of their
// own in each namespace, which tell the host's.
func (m *mountTables) ofPrivileged(task string) (*view, error) {
	table, err := mount.TableOf(task)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range table {
		if known, ok := m.byID[e.ID]; ok && known.in == nil && known.Root == e.Root && known.Source == e.Source {
			return nil, nil
		}
	}
	v := &view{table, table.Index()}
	m.add(table, v)
	return v, nil
}

// find returns the mount with an ID; not ok when no table that was read has it: it is internal to
// the kernel, or detached, or not below the root directory of any process.
func (m *mountTables) find(id int) (seenMount, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found, ok := m.byID[id]
	return found, ok
}

// rootOf identifies the root directory of a task. AT_STATX_DONT_SYNC: no server that may be dead is
// asked.
func rootOf(task string) ([3]uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, task+"/root", unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err != nil {
		return [3]uint64{}, &os.PathError{Op: "statx", Path: task + "/root", Err: err}
	}
	return [3]uint64{uint64(st.Dev_major), uint64(st.Dev_minor), st.Ino}, nil
}
