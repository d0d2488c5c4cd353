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
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/clock"
)

// Entry is one line of a mountinfo file (proc_pid_mountinfo(5)), unescaped.
type Entry = mountinfo.Info

// Mounts is a mount table at one moment, in the kernel's order. If several mounts have the same mount
// point, the last one hides the others. It is not changed after it was read, so it is safe for
// concurrent use.
type Mounts []*Entry

// Table reads the mounts of this process's mount namespace. Its errors are those of TableOf.
func Table() (Mounts, error) {
	m, err := TableOf("/proc/thread-self")
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	return m, nil
}

// TableOf reads the mounts that a task sees. task is the directory of the task in /proc. The root of
// an NFS mount is replaced by what RootOf returns for it. TableOf fails with ErrTooLarge for a table of
// more than MaxTable bytes. Ended reports whether it failed because the task has ended.
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
	m.resolveShareRoots(task + "/root")
	return m, nil
}

// At returns the visible mount on target, or nil if target is not a mount point. target is an absolute
// path without symbolic links.
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

// Of returns the mounts of the filesystem with a device number.
func (m Mounts) Of(major, minor int) Mounts {
	var found Mounts
	for _, e := range m {
		if e.Major == major && e.Minor == minor {
			found = append(found, e)
		}
	}
	return found
}

// From returns the first mount of a source, or nil if there is none.
func (m Mounts) From(source string) *Entry {
	for _, e := range m {
		if e.Source == source {
			return e
		}
	}
	return nil
}

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// Filesystem identifies a filesystem or a directory tree in it: the device number of the filesystem,
// and the path of the tree's root in that filesystem ("/" for the whole filesystem).
type Filesystem struct {
	Major int    `json:"major"`
	Minor int    `json:"minor"`
	Root  string `json:"root"`
}

// Place identifies a directory by the device number of its filesystem and its path in that filesystem.
// It identifies a mount point independently of the mount namespace.
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

// PlaceOf returns the directory on which an entry is mounted. ok is false if the table does not contain
// the parent mount, for instance because the process has another root directory.
func (x Index) PlaceOf(e *Entry) (p Place, ok bool) {
	parent := x[e.Parent]
	if parent == nil || parent == e {
		return Place{}, false
	}
	return placeIn(parent, e.Mountpoint)
}

// PlaceAt returns the directory on which the mount at path is mounted or, if path is not a mount
// point, the directory at path. ok is false if the table does not show it.
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
	// PID and Comm identify one process of the namespace.
	PID  int
	Comm string
	// Namespace is the inode of the mount namespace, or 0 if the kernel does not show it.
	Namespace uint64
	// Mountpoint is the path of the mount as the process sees it. It is empty if Unexamined is set.
	Mountpoint string
	// Unexamined is the error that prevented the examination of the process, or nil.
	Unexamined error
}

// String returns a clause for an error message.
func (h Holder) String() string {
	if h.Unexamined != nil {
		return fmt.Sprintf("process %d (%s) may have it mounted and cannot be examined: %v", h.PID, h.Comm, h.Unexamined)
	}
	return fmt.Sprintf("process %d (%s) has it mounted at %s in another mount namespace", h.PID, h.Comm, h.Mountpoint)
}

// Foreign contains the mounts of all other mount namespaces at one moment. It is not changed after it
// was read, so it is safe for concurrent use.
type Foreign struct {
	own        Mounts
	mounts     []foreignMount
	unexamined []Holder
}

type foreignMount struct {
	*Entry
	holder Holder
	place  Place
	placed bool // reports whether place is known
}

// Holders returns the processes that have fsys, or a directory of it, mounted in another mount
// namespace: one for each namespace and mount point. The result includes every process that could not
// be examined, with Unexamined set.
//
// A namespace that was created while the host had fsys mounted on ownTarget has a copy of that mount.
// Holders does not return copies. It recognizes a copy by the directory on which it is mounted and not
// by its path, because a container can choose any path for its volume. If ownTarget is empty, Holders
// returns copies too.
//
// An NFS mount that matches no mount of the host may be any part of its share, so Holders returns it.
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

// From returns the processes that have a source, or a path below it, mounted in another mount
// namespace. It is for filesystems whose sources are not devices. The result includes every process
// that could not be examined, with Unexamined set.
func (f *Foreign) From(source string) []Holder {
	holders := slices.Clone(f.unexamined)
	for _, m := range f.mounts {
		if within(m.Source, source) {
			holders = append(holders, m.holder)
		}
	}
	return holders
}

// Elsewhere reads the mounts of all other mount namespaces that have a process in this PID namespace. It
// misses a mount namespace without a process, which a file or a descriptor can keep alive. It does not
// skip a process that cannot be examined: Holders and From return it.
//
// It reads the mounts of every thread in /proc, about 10 µs for each, so do not call it often. It ends
// after about 10 seconds: processes that were not read by then count as such that cannot be examined.
// Otherwise a user who can make a user namespace could delay it without bound, with mount tables of
// many megabytes. It fails if it cannot list the processes or read the mounts of this process.
func Elsewhere() (*Foreign, error) { return elsewhere(lookTime) }

// lookTime is long enough for 1,000 containers on a busy host, and short for somebody who waits.
const lookTime = 10 * time.Second

var errLookTime = errors.New("the look at all processes took too long (try again)")

func elsewhere(within time.Duration) (*Foreign, error) {
	until := clock.System{}.Steady() + within
	own, err := namespaceOf("/proc/thread-self")
	if err != nil {
		return nil, fmt.Errorf("find holders: %w", err)
	}
	s := scan{own: own, until: until, views: map[view]bool{}, seen: map[mountKey]bool{}}
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
	until time.Duration     // no mount table is read after it
	views map[view]bool     // the views that were read
	seen  map[mountKey]bool // the mounts that were read: two views of one namespace can show the same one
	found Foreign
}

// mountKey identifies a mount. The ID is not sufficient: the kernel can reuse it after an unmount while
// Elsewhere reads the processes.
type mountKey struct {
	id, major, minor int
	root             string
}

func keyOf(e *Entry) mountKey { return mountKey{e.ID, e.Major, e.Minor, e.Root} }

// view identifies the set of mounts that a process sees: those of its mount namespace that are below
// its root directory, which chroot(2) can change.
type view struct {
	ns   uint64
	root [3]uint64
}

// rootID identifies the root directory of a task by device number and inode. ok is false if the kernel
// does not show the directory. AT_STATX_DONT_SYNC prevents a request to an NFS server, which may be dead.
func rootID(task string) (id [3]uint64, ok bool) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, task+"/root", unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err != nil {
		return id, false
	}
	return [3]uint64{uint64(st.Dev_major), uint64(st.Dev_minor), st.Ino}, true
}

// process reads the mount namespaces of one process. It reads every thread: the first one may have
// ended before the others, and a thread can have a different namespace.
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
	// The kernel hides the namespace of a process that has more capabilities than this one
	// (ptrace(2), access mode checks), but shows its mounts.
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if ns == s.own {
		return nil
	}
	root, rooted := rootID(task)
	seen := view{ns: ns, root: root}
	if s.views[seen] {
		return nil
	}
	if now := (clock.System{}).Steady(); now > s.until {
		return errLookTime
	}
	mounts, err := TableOf(task)
	if err != nil {
		return err
	}
	if ns != 0 && rooted { // others may have another root directory
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

// commOf returns the name of a process, or "" if the process has ended.
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

// Ended reports whether an error from reading /proc/PID means that the task has ended or is a zombie.
// EINVAL is such an error: it is returned for the mountinfo file of a task that has released its
// namespaces (fs/proc_namespace.c).
func Ended(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL)
}
