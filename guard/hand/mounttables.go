package hand

import (
	"errors"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/mount"
)

// btrfs is a filesystem type whose device numbers differ between a mount table and stat(2): stat(2)
// reports a separate number for each subvolume.
const btrfs = "btrfs"

// mountTables contains the mount tables that one look has read, and an index of their mounts by ID. A
// table is read once for all tasks with the same namespace and root directory. Safe for concurrent use.
type mountTables struct {
	host string // the host's mount namespace, as the link /proc/PID/ns/mnt shows it

	mu    sync.Mutex
	views map[viewKey]*view
	byID  map[int]seenMount
}

// viewKey identifies the set of mounts that a process sees: those of its mount namespace that are below
// its root directory, which chroot(2) can change.
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

// add indexes a table; in is nil for the host's. If two tables show the same mount, the entry with the
// longer mount point is kept, because the kernel reports open files by their path from the root of the
// namespace.
func (m *mountTables) add(table mount.Mounts, in *view) {
	for _, e := range table {
		if known, ok := m.byID[e.ID]; !ok || known.in != nil && len(e.Mountpoint) > len(known.Mountpoint) {
			m.byID[e.ID] = seenMount{e, in}
		}
	}
}

// of returns the mount table that a task sees, or nil if the task is in the host's namespace. Its errors
// are those of mount.TableOf.
func (m *mountTables) of(task string) (*view, error) {
	ns, err := os.Readlink(task + "/ns/mnt")
	if errors.Is(err, fs.ErrPermission) {
		return m.ofPrivileged(task)
	}
	if err != nil || ns == m.host {
		return nil, err
	}
	// A filesystem that does not describe the root directory, as a FUSE of another user or one that has
	// shut down, leaves the mounts to be read: for this task alone, as others may have another root.
	root, rootErr := rootID(task)
	key := viewKey{ns, root}
	m.mu.Lock()
	v := m.views[key]
	m.mu.Unlock()
	if v != nil && rootErr == nil {
		return v, nil
	}
	table, err := mount.TableOf(task)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if v = m.views[key]; v == nil || rootErr != nil {
		v = &view{table, table.Index()}
		m.add(table, v)
		if rootErr == nil {
			m.views[key] = v
		}
	}
	return v, nil
}

// ofPrivileged is like of for a task with capabilities that this process lacks. The kernel hides the
// namespace of such a task (ptrace(2), access mode checks), but shows its mounts. Mount IDs differ
// between namespaces, so a task that shows a mount with an ID of the host is in the host's namespace.
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

// find returns the mount with an ID. It returns false if no table that was read contains it, because the
// mount is internal to the kernel, is detached, or is not below the root directory of any process.
func (m *mountTables) find(id int) (seenMount, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found, ok := m.byID[id]
	return found, ok
}

// rootID identifies the root directory of a task by device number and inode. AT_STATX_DONT_SYNC prevents
// a request to an NFS server, which may be dead.
func rootID(task string) ([3]uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, task+"/root", unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err != nil {
		return [3]uint64{}, &os.PathError{Op: "statx", Path: task + "/root", Err: err}
	}
	return [3]uint64{uint64(st.Dev_major), uint64(st.Dev_minor), st.Ino}, nil
}
