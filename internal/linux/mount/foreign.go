package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/clock"
)

// ReadForeign reads the mounts of all other mount namespaces that have a process in this PID namespace. It misses a
// mount namespace without a process, which a file or a descriptor can keep alive. A process that cannot be examined is
// not skipped: Holders and From return it.
//
// It reads the mounts of every thread in /proc, about 10 µs for each, so do not call it often. It ends after about 10
// seconds, and spends at most about a second on each table. Processes that were not read by then are reported as
// processes that could not be examined. Otherwise a user who can make a user namespace could delay it without bound:
// the kernel needs minutes for the table of thousands of mounts that are stacked on one mount point. It fails if it
// cannot list the processes or read the mounts of this process.
func ReadForeign() (*Foreign, error) { return readForeign(ScanTimeout) }

// ScanTimeout is how long a look at all processes may take. It is long enough for 1,000 containers on a busy
// host, and short for a waiting caller.
const ScanTimeout = 10 * time.Second

// tableTimeout is how long the read of one mount table may take. Those of containers take milliseconds.
const tableTimeout = time.Second

// ErrScanTimeout means that a process was not examined because the look reached its time limit first.
var ErrScanTimeout = errors.New("the scan of all processes took too long (try again)")

func readForeign(timeout time.Duration) (*Foreign, error) {
	until := clock.System{}.Steady() + timeout
	own, err := namespaceOf("/proc/thread-self")
	if err != nil {
		return nil, fmt.Errorf("find holders: %w", err)
	}
	s := scan{own: own, until: until, views: map[view]bool{}, seen: map[mountKey]bool{}}
	table, err := Table()
	if err != nil {
		return nil, fmt.Errorf("find holders: %w", err)
	}
	s.found.own, s.found.members = table, map[uint64][]int{}
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
			s.found.unexamined = append(s.found.unexamined, Holder{PID: pid, Comm: CommOf(pid), Unexamined: err})
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
// ReadForeign reads the processes.
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
	if list := s.found.members[ns]; len(list) == 0 || list[len(list)-1] != pid {
		s.found.members[ns] = append(list, pid)
	}
	root, rooted := rootID(task)
	seen := view{ns: ns, root: root}
	if s.views[seen] {
		return nil
	}
	mounts, err := tableBefore(task, s.until)
	if err != nil {
		return err
	}
	if ns != 0 && rooted { // others may have another root directory
		s.views[seen] = true
	}
	holder := Holder{PID: pid, Comm: CommOf(pid), Namespace: ns}
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

// tableBefore reads the mounts that a task sees. It fails with ErrScanTimeout at the time until, or if the table takes
// longer than tableTimeout.
func tableBefore(task string, until time.Duration) (Mounts, error) {
	until = min(until, clock.System{}.Steady()+tableTimeout)
	return TableInSteps(task, func(int) error {
		if (clock.System{}).Steady() > until {
			return ErrScanTimeout
		}
		return nil
	})
}

// CommOf returns the name of a process, or "" if the process has ended.
func CommOf(pid int) string {
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
