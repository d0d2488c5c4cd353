package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Entry is one line of a mountinfo file (proc_pid_mountinfo(5)), unescaped.
type Entry = mountinfo.Info

// Mounts is a mount table at one moment, in the kernel's order: of several mounts on
// one path the last one is seen.
type Mounts []*Entry

// Table reads the mounts of this process's mount namespace.
func Table() (Mounts, error) {
	m, err := TableOf("/proc/thread-self")
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	return m, nil
}

// TableOf reads the mounts that a task sees, by its directory in /proc. What NFS is mounted
// there has the root that RootOf says.
func TableOf(task string) (Mounts, error) {
	f, err := os.Open(task + "/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return nil, err
	}
	Mounts(m).tellShares(task + "/root")
	return m, nil
}

// At returns the mount that is seen on target, an absolute path without symbolic
// links, or nil when it is no mount point.
func (m Mounts) At(target string) *Entry {
	for i := len(m) - 1; i >= 0; i-- {
		if m[i].Mountpoint == target {
			return m[i]
		}
	}
	return nil
}

// Under returns the mounts on dir and below it.
func (m Mounts) Under(dir string) Mounts {
	var found Mounts
	for _, e := range m {
		if within(e.Mountpoint, dir) {
			found = append(found, e)
		}
	}
	return found
}

// Of returns the mounts of the filesystem with that device number.
func (m Mounts) Of(major, minor int) Mounts {
	var found Mounts
	for _, e := range m {
		if e.Major == major && e.Minor == minor {
			found = append(found, e)
		}
	}
	return found
}

// From returns a mount of that source, or nil when there is none.
func (m Mounts) From(source string) *Entry {
	for _, e := range m {
		if e.Source == source {
			return e
		}
	}
	return nil
}

// within tells whether path is dir or below it.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// Filesystem names a tree: the device number of its filesystem, and the path of the
// tree's root in that filesystem ("/" for all of it).
type Filesystem struct {
	Major int    `json:"major"`
	Minor int    `json:"minor"`
	Root  string `json:"root"`
}

// Holder is a process in whose mount namespace a filesystem is mounted.
type Holder struct {
	// PID and Comm are of one process of the namespace.
	PID  int
	Comm string
	// Namespace is the inode of the mount namespace, 0 when it is kept from us.
	Namespace uint64
	// Mountpoint is where, as that process sees it.
	Mountpoint string
}

// Foreign is what was mounted in other mount namespaces at one moment.
type Foreign struct {
	own    Mounts
	mounts []foreignMount
}

type foreignMount struct {
	*Entry
	holder Holder
}

// Holders returns where fsys, or a directory of it, was mounted, except on ownTarget: a
// copy of our own mount that a namespace got when it was made. One holder for each
// namespace and mount point. What is mounted of a share, and is none of what we have mounted
// of it, may be a part of anything.
func (f *Foreign) Holders(fsys Filesystem, ownTarget string) []Holder {
	var holders []Holder
	for _, m := range f.mounts {
		root := strings.TrimSuffix(m.Root, "//deleted")
		if m.Major == fsys.Major && m.Minor == fsys.Minor && m.Mountpoint != ownTarget && (within(root, fsys.Root) || f.own.Unsure(m.Entry)) {
			holders = append(holders, m.holder)
		}
	}
	return holders
}

// From returns where that source, or one that lies below it, was mounted: for filesystems
// whose sources are no devices.
func (f *Foreign) From(source string) []Holder {
	var holders []Holder
	for _, m := range f.mounts {
		if within(m.Source, source) {
			holders = append(holders, m.holder)
		}
	}
	return holders
}

// Elsewhere reads what is mounted in other mount namespaces. It sees the processes of
// this PID namespace; a namespace that only a file or descriptor keeps alive has no
// process and is not seen. It reads all of /proc: not for a hot path.
func Elsewhere() (*Foreign, error) {
	own, err := namespaceOf("/proc/thread-self")
	if err != nil {
		return nil, fmt.Errorf("find holders: %w", err)
	}
	s := scan{own: own, views: map[view]bool{}, seen: map[int]bool{}}
	table, err := Table()
	if err != nil {
		return nil, fmt.Errorf("find holders: %w", err)
	}
	s.found.own = table
	for _, e := range table {
		s.seen[e.ID] = true
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("find holders: %w", err)
	}
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		if err := s.process(pid); err != nil {
			return nil, fmt.Errorf("find holders: process %d: %w", pid, err)
		}
	}
	return &s.found, nil
}

type scan struct {
	own   uint64
	views map[view]bool // that were seen
	seen  map[int]bool  // mounts that were seen: their IDs are the kernel's, not a namespace's
	found Foreign
}

// view is what a process sees of the mounts: a namespace, from its root directory
// down, which chroot(2) may have moved.
type view struct {
	ns   uint64
	root [3]uint64
}

// rootOf identifies the root directory of a process; one that is kept from us is zero.
// It must not ask a server that may be dead, hence AT_STATX_DONT_SYNC.
func rootOf(task string) [3]uint64 {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, task+"/root", unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err != nil {
		return [3]uint64{}
	}
	return [3]uint64{uint64(st.Dev_major), uint64(st.Dev_minor), st.Ino}
}

// process looks at the namespaces of one process. All threads are asked: the first one
// may have ended while others run, and a thread can have a namespace of its own.
func (s *scan) process(pid int) error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*", pid))
	if err != nil {
		return err
	}
	for _, task := range tasks {
		if err := s.task(pid, task); err != nil && !ended(err) {
			return err
		}
	}
	return nil
}

func (s *scan) task(pid int, task string) error {
	ns, err := namespaceOf(task)
	// The namespace of a process with more capabilities than ours is kept from us
	// (ptrace(2), access mode checks), its mounts are not.
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	seen := view{ns: ns, root: rootOf(task)}
	if ns == s.own || s.views[seen] {
		return nil
	}
	mounts, err := TableOf(task)
	if err != nil {
		return err
	}
	if ns != 0 {
		s.views[seen] = true
	}
	comm, _ := os.ReadFile(task + "/comm") // a process that just ended has none
	for _, e := range mounts {
		if s.seen[e.ID] {
			continue
		}
		s.seen[e.ID] = true
		h := Holder{PID: pid, Comm: strings.TrimSpace(string(comm)), Namespace: ns, Mountpoint: e.Mountpoint}
		s.found.mounts = append(s.found.mounts, foreignMount{e, h})
	}
	return nil
}

func namespaceOf(task string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(task+"/ns/mnt", &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: task + "/ns/mnt", Err: err}
	}
	return st.Ino, nil
}

// ended tells the errors of a process that is gone or a zombie: the mountinfo of one
// without namespaces can't be opened (EINVAL, fs/proc_namespace.c).
func ended(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL)
}
