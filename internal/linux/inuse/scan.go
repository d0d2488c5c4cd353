// Package inuse finds the processes that can write to a directory tree or a filesystem: through a mount
// in another mount namespace, an open file, a working or root directory, or a shared mapping. It relies on
// the kernel's data about each process. It avoids requests to disks and servers that may be dead, and an
// Examiner abandons an examination that hangs in the kernel.
//
// A look at all processes takes these steps:
//
//  1. NewScan creates what all examinations share. Scan.AddTree adds each directory tree that is looked for.
//  2. Scan.SmallTableOf reads the mount table of a process if that is quick. This step is optional.
//  3. Examiner.Examine examines a process and returns its Findings. A Budget can limit the work.
//  4. NewTreeUse and TreeUse.FindOverlays prepare the check of one tree. TreeUse.CanWrite reports whether
//     the Findings of a process show that it can write to the tree.
//
// A process that cannot be examined may be able to write to any tree. The caller decides what to do about it. The guard
// (guard/hand) examines processes in these steps before it fences a dataset. The agent (agent/mounting) and the
// backends call FindOpenFiles or FindUser to find out whether a dataset is in use. The state that lasts between calls
// is the set of examinations that hang (Examiner) and the look that callers of FindOpenFiles share. Both are protected
// by mutexes.
//
// Where to change what: what a process holds is in examine.go and mappings.go. Which mounts of a tree count is in
// tree.go and overlay.go. How a file on a detached mount is placed is in detached.go and devices.go. The limits of one
// examination are in budget.go and examiner.go, and those of a look in openfiles.go.
//
// In this package, the host is the mount namespace of the calling process, and a task is a thread. A task
// is named by its directory in /proc.
package inuse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/mount"
)

// btrfs is a filesystem type whose device numbers differ between a mount table and stat(2): stat(2)
// reports a separate number for each subvolume.
const btrfs = "btrfs"

// Scan holds the state that the examinations of one look share: the mount tables that were read, an index
// of their mounts by ID, and the filesystems whose open files are recorded. A table is read once for all
// tasks with the same namespace and root directory.
//
// Call AddTree before the first examination. Apart from AddTree, a Scan is safe for concurrent use.
type Scan struct {
	own     mount.Mounts
	host    string     // the host's mount namespace, as the link /proc/PID/ns/mnt shows it
	devices []device   // the wanted filesystems: descriptors on other ones are ignored
	trees   []*TreeUse // the wanted directory trees
	readers bool       // files that are open or mapped only for reading are recorded too

	listed atomic.Int64 // the bytes that SmallTableOf has read

	mu    sync.Mutex
	views map[viewKey]*View
	all   []*View          // the values of views, and the tables that belong to one task only
	large map[viewKey]bool // the tables that were too large for SmallTableOf
	byID  map[int]seenMount
	size  int // of all tables together, in bytes

	hostOverlays   func() []overlay              // the overlays in the host's table
	lookupMountsOf map[deviceNumber]mount.Mounts // the results of lookupMounts
}

// viewKey identifies the set of mounts that a process sees: those of its mount namespace that are below
// its root directory, which chroot(2) can change.
type viewKey struct {
	ns   string
	root [3]uint64
}

// NewScan returns a Scan that looks for no tree yet: see AddTree. own is the mount table of the calling
// process. It fails if /proc cannot be read.
func NewScan(own mount.Mounts) (*Scan, error) {
	host, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, err
	}
	s := &Scan{own: own, host: host, views: map[viewKey]*View{}, large: map[viewKey]bool{}, byID: map[int]seenMount{}}
	s.add(own, nil)
	return s, nil
}

// add indexes a table. in is nil for the host's table. The caller holds s.mu, except in NewScan.
//
// If two tables show the same mount, add keeps the entry with the longer mount point, because the kernel
// reports open files by their path from the root of the namespace. It never replaces an entry of the
// host's table.
func (s *Scan) add(table mount.Mounts, in *View) {
	if in != nil {
		s.all = append(s.all, in)
	}
	for _, e := range table {
		if indexed, ok := s.byID[e.ID]; !ok || indexed.in != nil && len(e.Mountpoint) > len(indexed.Mountpoint) {
			s.byID[e.ID] = seenMount{e, in}
		}
	}
}

const (
	// smallTable is the maximum size of a table that SmallTableOf reads. That of a container usually has
	// less than 10 KiB. The kernel writes about 40 MiB a second.
	smallTable = 64 << 10
	// listedTables is how many bytes of tables SmallTableOf reads in all.
	listedTables = 8 << 20
)

// ErrLargeTable is returned by SmallTableOf for a table that it does not read. TableOf reads such a
// table.
var ErrLargeTable = errors.New("its mount table is too large to read in time")

// SmallTableOf does the work of TableOf for a caller that goes through all processes. Such a caller must not take long,
// although any user can make thousands of mount namespaces with large tables. So SmallTableOf fails with ErrLargeTable
// if a table has more than smallTable bytes. Once it has read listedTables bytes in all, it fails for every further
// table, but still returns the tables that were read before.
func (s *Scan) SmallTableOf(task string) (*View, error) {
	read := 0
	return s.tableOf(task, true, func(bytes int) error {
		read += bytes
		if s.listed.Add(int64(bytes)) > listedTables || read > smallTable {
			return ErrLargeTable
		}
		return nil
	})
}

// TableOf returns the mount table that a task sees, or nil if the task is in the host's namespace. It
// calls step as mount.TableInSteps does, and fails with the error of step. Other errors are those of
// reading /proc: mount.Ended reports whether the task has ended.
func (s *Scan) TableOf(task string, step func(bytes int) error) (*View, error) {
	return s.tableOf(task, false, step)
}

// Full reports whether the tables that were read have more than mount.MaxTable bytes in all. The caller
// should not start further examinations then, because the tables stay in memory.
func (s *Scan) Full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size > mount.MaxTable
}

// tableOf does the work of TableOf. If small is true, it fails with ErrLargeTable for a table that was too large in an
// earlier call with small.
func (s *Scan) tableOf(task string, small bool, step func(bytes int) error) (*View, error) {
	ns, err := os.Readlink(task + "/ns/mnt")
	if errors.Is(err, fs.ErrPermission) {
		// Read the whole table, even if it is large: only the whole table shows whether the task is in the host's
		// namespace. A task of a container engine is an example.
		if small {
			step = func(int) error { return nil }
		}
		return s.ofPrivileged(task, step)
	}
	if err != nil || ns == s.host {
		return nil, err
	}
	// If the filesystem of the root directory does not describe it (a FUSE of another user, or a filesystem that
	// has shut down), the table is read for this task only: another task may have a different root directory.
	root, rootErr := rootID(task)
	key := viewKey{ns, root}
	s.mu.Lock()
	v, large := s.views[key], s.large[key]
	s.mu.Unlock()
	if v != nil && rootErr == nil {
		return v, nil
	}
	if small && large {
		return nil, ErrLargeTable
	}
	size := 0
	table, err := mount.TableInSteps(task, func(bytes int) error { size += bytes; return step(bytes) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(err, ErrLargeTable) && rootErr == nil {
		s.large[key] = true
	}
	if err != nil {
		return nil, err
	}
	if v = s.views[key]; v == nil || rootErr != nil {
		v = NewView(table)
		s.add(table, v)
		s.size += size
		if rootErr == nil {
			s.views[key] = v
		}
	}
	return v, nil
}

// ofPrivileged is like TableOf for a task with capabilities that this process lacks. The kernel hides the
// namespace of such a task (ptrace(2), access mode checks), but shows its mounts. Mount IDs differ
// between namespaces, so a task that shows a mount with an ID of the host is in the host's namespace.
func (s *Scan) ofPrivileged(task string, step func(bytes int) error) (*View, error) {
	size := 0
	table, err := mount.TableInSteps(task, func(bytes int) error { size += bytes; return step(bytes) })
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range table {
		hostMount, ok := s.byID[e.ID]
		if ok && hostMount.in == nil && hostMount.Root == e.Root && hostMount.Source == e.Source {
			return nil, nil
		}
	}
	v := NewView(table)
	s.add(table, v)
	s.size += size
	return v, nil
}

// find returns the mount with an ID. It returns false if no table that was read contains it, because the
// mount is internal to the kernel, is detached, or is not below the root directory of any process.
func (s *Scan) find(id int) (seenMount, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.byID[id]
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

// RunsAsRoot reports whether all user IDs of a process are 0 on the host.
func RunsAsRoot(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	return slices.Equal(strings.Fields(Field(b, "Uid:")), []string{"0", "0", "0", "0"})
}
