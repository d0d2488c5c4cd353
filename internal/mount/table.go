package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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

// TableOf reads the mounts that a task sees, by its directory in /proc. The root of an NFS mount
// is replaced as RootOf says. It fails with ErrTooLarge for a table of more than MaxTable bytes,
// and for a task that has ended (Ended tells).
func TableOf(task string) (Mounts, error) {
	f, err := os.Open(task + "/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := parseTable(f)
	if err != nil {
		return nil, err
	}
	m.tellShares(task + "/root")
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

// Place is the directory on which something is mounted: a path in the filesystem with that device
// number.
type Place struct {
	Major, Minor int
	Path         string
}

// Index finds the entries of a mount table by their mount ID.
type Index map[int]*Entry

// Index returns the entries of the table by their mount ID.
func (m Mounts) Index() Index {
	index := make(Index, len(m))
	for _, e := range m {
		index[e.ID] = e
	}
	return index
}

// PlaceOf returns the directory on which an entry is mounted. It is not ok when the table does not
// show the mount that contains the directory, as for a process with another root.
func (x Index) PlaceOf(e *Entry) (p Place, ok bool) {
	parent := x[e.Parent]
	if parent == nil || parent == e {
		return Place{}, false
	}
	return placeIn(parent, e.Mountpoint)
}

// PlaceAt returns the directory on which the mount at path is mounted or, when path is no mount
// point, the directory itself.
func (m Mounts) PlaceAt(path string) (p Place, ok bool) {
	if e := m.At(path); e != nil {
		return m.Index().PlaceOf(e)
	}
	var around *Entry
	for _, e := range m {
		if within(path, e.Mountpoint) && (around == nil || len(e.Mountpoint) >= len(around.Mountpoint)) {
			around = e
		}
	}
	if around == nil {
		return Place{}, false
	}
	return placeIn(around, path)
}

func placeIn(e *Entry, path string) (p Place, ok bool) {
	if !within(path, e.Mountpoint) {
		return Place{}, false
	}
	rest := strings.TrimPrefix(path, strings.TrimSuffix(e.Mountpoint, "/"))
	return Place{e.Major, e.Minor, filepath.Join(e.Root, rest)}, true
}

// Holder is a process in whose mount namespace a filesystem is mounted, or one that could not be
// examined and may have it mounted.
type Holder struct {
	// PID and Comm are of one process of the namespace.
	PID  int
	Comm string
	// Namespace is the inode of the mount namespace, 0 when the kernel does not show it.
	Namespace uint64
	// Mountpoint is where, as that process sees it; empty when Unexamined is set.
	Mountpoint string
	// Unexamined is why the process could not be examined, nil when it was.
	Unexamined error
}

// String says in a clause what the process holds, for an error message.
func (h Holder) String() string {
	if h.Unexamined != nil {
		return fmt.Sprintf("process %d (%s) may have it mounted and cannot be examined: %v", h.PID, h.Comm, h.Unexamined)
	}
	return fmt.Sprintf("process %d (%s) has it mounted at %s in another mount namespace", h.PID, h.Comm, h.Mountpoint)
}

// Foreign is what was mounted in other mount namespaces at one moment.
type Foreign struct {
	own        Mounts
	mounts     []foreignMount
	unexamined []Holder
}

type foreignMount struct {
	*Entry
	holder Holder
	place  Place
	placed bool // place is known
}

// Holders returns the processes that have fsys, or a directory of it, mounted in another mount
// namespace: one for each namespace and mount point. Every process that could not be examined is
// among them, with Unexamined set.
//
// A namespace that was made while the host had fsys mounted on ownTarget has a copy of that mount.
// The copy is not counted. It is recognized by the directory on which it is mounted and not by its
// path: a container can choose any path for its volume. If ownTarget is empty, copies count too.
//
// A mount of an NFS share that is not one of the host's mounts of that share may be any part of
// it, and counts.
func (f *Foreign) Holders(fsys Filesystem, ownTarget string) []Holder {
	var ours Place
	known := false
	if ownTarget != "" {
		ours, known = f.own.PlaceAt(ownTarget)
	}
	holders := slices.Clone(f.unexamined)
	for _, m := range f.mounts {
		if m.Major != fsys.Major || m.Minor != fsys.Minor || known && m.placed && m.place == ours {
			continue
		}
		root := strings.TrimSuffix(m.Root, "//deleted")
		if within(root, fsys.Root) || f.own.Unsure(m.Entry) {
			holders = append(holders, m.holder)
		}
	}
	return holders
}

// From returns the processes that have that source, or one below it, mounted in another mount
// namespace. It is for filesystems whose sources are not devices. Every process that could not be
// examined is among them, with Unexamined set.
func (f *Foreign) From(source string) []Holder {
	holders := slices.Clone(f.unexamined)
	for _, m := range f.mounts {
		if within(m.Source, source) {
			holders = append(holders, m.holder)
		}
	}
	return holders
}

// Elsewhere reads what is mounted in other mount namespaces. It sees the processes of this PID
// namespace. A namespace that has no process, because only a file or a descriptor keeps it alive,
// is not seen. A process that cannot be examined is not skipped: Holders and From return it.
//
// It reads all of /proc: not for a hot path.
func Elsewhere() (*Foreign, error) {
	own, err := namespaceOf("/proc/thread-self")
	if err != nil {
		return nil, fmt.Errorf("find holders: %w", err)
	}
	s := scan{own: own, views: map[view]bool{}, seen: map[mountKey]bool{}}
	table, err := Table()
	if err != nil {
		return nil, fmt.Errorf("find holders: %w", err)
	}
	s.found.own = table
	for _, e := range table {
		s.seen[keyOf(e)] = true
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
		if err := s.process(pid); err != nil && !Ended(err) {
			s.found.unexamined = append(s.found.unexamined, Holder{PID: pid, Comm: commOf(pid), Unexamined: err})
		}
	}
	return &s.found, nil
}

type scan struct {
	own   uint64
	views map[view]bool     // that were read
	seen  map[mountKey]bool // mounts that were read; two views of one namespace show the same ones
	found Foreign
}

// mountKey identifies a mount. The kernel uses an ID again after an unmount, even while the
// processes are read.
type mountKey struct {
	id, major, minor int
	root             string
}

func keyOf(e *Entry) mountKey { return mountKey{e.ID, e.Major, e.Minor, e.Root} }

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

// process reads the mount namespaces of one process. Each thread is asked: the first one may have
// ended while others run, and a thread can be in a namespace of its own.
func (s *scan) process(pid int) error {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, task := range tasks {
		if err := s.task(pid, filepath.Join(dir, task.Name())); err != nil && !Ended(err) {
			return err
		}
	}
	return nil
}

func (s *scan) task(pid int, task string) error {
	ns, err := namespaceOf(task)
	// The kernel does not show the namespace of a process with more capabilities than ours
	// (ptrace(2), access mode checks); it does show its mounts.
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if ns == s.own {
		return nil
	}
	seen := view{ns: ns, root: rootOf(task)}
	if s.views[seen] {
		return nil
	}
	mounts, err := TableOf(task)
	if err != nil {
		return err
	}
	if ns != 0 {
		s.views[seen] = true
	}
	holder := Holder{PID: pid, Comm: commOf(pid), Namespace: ns}
	index := mounts.Index()
	for _, e := range mounts {
		if s.seen[keyOf(e)] {
			continue
		}
		s.seen[keyOf(e)] = true
		m := foreignMount{Entry: e, holder: holder}
		m.holder.Mountpoint = e.Mountpoint
		m.place, m.placed = index.PlaceOf(e)
		s.found.mounts = append(s.found.mounts, m)
	}
	return nil
}

// commOf returns the name of a process, empty for one that has ended.
func commOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func namespaceOf(task string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(task+"/ns/mnt", &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: task + "/ns/mnt", Err: err}
	}
	return st.Ino, nil
}

// Ended reports whether an error of a read below /proc says that the task has ended or is a
// zombie. The mountinfo file of a task without namespaces cannot be opened: EINVAL
// (fs/proc_namespace.c).
func Ended(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL)
}
