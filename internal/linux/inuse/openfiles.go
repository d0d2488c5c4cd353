package inuse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/linux/process"
)

// Names of Drover's processes, as /proc/PID/comm shows them. A hand is a child process of the guard. While a hand
// freezes a filesystem, it has a directory of the dataset open. The hand does not count as a holder.
const (
	CommDrover = "drover"
	CommHand   = "drover-hand"
)

// Opener is a process that has a file of a directory tree open, or one that could not be examined and may
// have one open.
type Opener struct {
	PID  int
	Comm string
	// Path is the path of the file below the root of the tree. It is empty if the file cannot be determined,
	// for instance because no mount table shows the mount through which it was opened.
	Path string
	// Unexamined is the error that prevented the examination of the process, or nil.
	Unexamined error
}

// String returns a clause for an error message.
func (o Opener) String() string {
	process := fmt.Sprintf("process %d (%s)", o.PID, o.Comm)
	switch {
	case o.Unexamined != nil:
		return fmt.Sprintf("%s may have a file of it open and cannot be examined: %v", process, o.Unexamined)
	case o.Path == "":
		return process +
			" has a file of its filesystem open that may belong to it: the kernel does not report its location"
	case o.Path == ".":
		return process + " has its root directory open"
	}
	return fmt.Sprintf("%s has %s open inside of it", process, o.Path)
}

// Files contains the files of some filesystems that the processes of this PID namespace had open during one look. It is
// not changed after it was read, so it is safe for concurrent use.
type Files struct {
	own    mount.Mounts
	opened []openedBy
}

type openedBy struct {
	Opener
	files []File
}

// examiner performs the examinations of all looks of this process. It remembers which examinations hang.
var examiner Examiner

// FindOpenFiles reads which files of the filesystems of some trees are open: files open for writing, open
// directories, working and root directories, and shared writable mappings. It finds files that no mount namespace
// shows: a file that was passed to another process, or one on a detached mount. It finds files that are open or mapped
// only for reading if a tree is a whole filesystem. It ignores the files of Drover's processes, because Drover has
// records about them. It may miss a file that is passed from process to process during the look.
//
// A process that cannot be examined is part of the result. A look takes 0.1 to 0.2 ms for each process and some µs for
// each descriptor, so do not call FindOpenFiles often. Processes with very much to read are examined last, for
// mount.ScanTimeout at most. FindOpenFiles may wait for an earlier look to end first. It fails if it cannot list the
// processes or read the mounts of this process, or if ctx ends.
//
// Callers share a look: a hundred datasets that are removed together need a few looks. A caller never gets a
// look that began before its call.
func FindOpenFiles(ctx context.Context, trees []mount.Filesystem) (*Files, error) {
	l := shared.join(trees)
	select {
	case <-l.done:
	case <-ctx.Done():
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("find open files: %w", err)
	}
	return l.files, l.err
}

// shared shares looks between all callers in this process.
var shared sharedLooks

// sharedLooks shares looks between callers. The zero value is ready. Safe for concurrent use.
type sharedLooks struct {
	turn sync.Mutex // held during a look: one at a time

	mu   sync.Mutex
	next *sharedLook // the next look, or nil if no caller waits for one
}

type sharedLook struct {
	trees []mount.Filesystem // of all callers
	done  chan struct{}      // closed at the end of the look; files and err are valid then
	files *Files
	err   error
}

// join adds trees to the next look, and returns that look. If no other caller waits for the next look yet, join starts
// it.
func (s *sharedLooks) join(trees []mount.Filesystem) *sharedLook {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = &sharedLook{done: make(chan struct{})}
		go s.run(s.next)
	}
	s.next.trees = append(s.next.trees, trees...)
	return s.next
}

// run performs a look once the current one has ended. From then on no caller can join it.
func (s *sharedLooks) run(l *sharedLook) {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	s.next = nil
	s.mu.Unlock()
	defer close(l.done)
	l.files, l.err = openFiles(quickTime, mount.ScanTimeout, l.trees)
}

const (
	// The first pass of a look examines the processes that need at most quickWork. Few need more. allQuickWork, which
	// takes some seconds, is the limit for all processes together. Once it is used up, the first pass leaves out
	// processes that need more than fairWork.
	quickWork    = 10_000
	allQuickWork = 1_000_000
	fairWork     = 64
	// quickTime bounds the first pass. It is long, because the work is limited already. On a busy host, or on one with
	// very many processes, it is better to complete the pass late than to leave processes out.
	quickTime = time.Minute
)

// filesLook is one look at the open files of all processes.
type filesLook struct {
	own   mount.Mounts
	trees []mount.Filesystem
	scan  *Scan
	found *Files
}

// openFiles performs a look. quick and rest are the time limits of its two passes.
func openFiles(quick, rest time.Duration, trees []mount.Filesystem) (*Files, error) {
	own, err := mount.Table()
	if err != nil {
		return nil, fmt.Errorf("find open files: %w", err)
	}
	l := &filesLook{own: own, trees: identified(own, trees), found: &Files{own: own}}
	pids, err := processes()
	if err == nil {
		pids, err = l.pass(quick, pids, NewBudget(allQuickWork, quickWork, fairWork))
	}
	if err == nil {
		_, err = l.pass(rest, pids, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("find open files: %w", err)
	}
	return l.found, nil
}

// processes lists the processes other than this one.
func processes() (pids []int, err error) {
	entries, err := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// pass examines processes. With a budget, it returns the processes that must be examined again without a budget: see
// process.
func (l *filesLook) pass(bound time.Duration, pids []int, budget *Budget) (unfinished []int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	for _, pid := range pids {
		done, err := l.process(ctx, pid, budget)
		if err != nil {
			return nil, err
		}
		if !done {
			unfinished = append(unfinished, pid)
		}
	}
	return unfinished, nil
}

// process adds the open files of a process, or the error of its examination. With a budget, done is false if the
// examination needs more work than the budget allows. done is also false if the examination seemed to hang, because on
// a busy host it may only have waited for a processor. If the present Scan is full, process makes a new one. It fails
// only if it cannot make the new Scan.
func (l *filesLook) process(ctx context.Context, pid int, budget *Budget) (done bool, err error) {
	if l.scan == nil || l.scan.Full() { // the mount tables stay in memory as long as the scan
		if l.scan, err = NewScan(l.own); err != nil {
			return false, err
		}
		for _, tree := range l.trees {
			l.scan.AddTree(tree, nil)
			l.scan.readers = l.scan.readers || tree.Root == "/"
		}
	}
	files, err := l.scan.filesOf(ctx, pid, budget)
	if budget != nil && (errors.Is(err, ErrTooMuch) || errors.Is(err, ErrBudget) || errors.Is(err, ErrHung)) {
		return false, nil
	}
	if len(files) > 0 || err != nil {
		l.found.opened = append(l.found.opened,
			openedBy{Opener{PID: pid, Comm: mount.CommOf(pid), Unexamined: err}, files})
	}
	return true, nil
}

// identified returns trees with the identities of their filesystems, as far as the host's mount table shows them.
// Without the identities, every file on a detached mount of any btrfs would count. A tree on a btrfs may contain
// subvolumes, and stat(2) reports another device number for each of them. So identified leaves out the stat(2) numbers
// if the ID of the btrfs is known.
func identified(own mount.Mounts, trees []mount.Filesystem) []mount.Filesystem {
	identities := map[deviceNumber]mount.Identity{}
	list := slices.Clone(trees)
	for i, tree := range list {
		number := deviceNumber{tree.Major, tree.Minor}
		id, ok := identities[number]
		if !ok {
			for _, e := range own.Of(tree.Major, tree.Minor) {
				if id = mount.Identify(e).Identity; id.Type != btrfs || id.FSID != 0 {
					break
				}
			}
			identities[number] = id
		}
		if tree.Identity == (mount.Identity{}) {
			tree.Identity = id
		}
		if tree.Identity.FSID != 0 {
			tree.Identity.StatMajor, tree.Identity.StatMinor = 0, 0
		}
		list[i] = tree
	}
	return list
}

// filesOf returns the files of a process. It returns none if the process has ended, or is one of Drover.
func (s *Scan) filesOf(ctx context.Context, pid int, budget *Budget) ([]File, error) {
	if ctx.Err() != nil {
		return nil, mount.ErrScanTimeout
	}
	id, err := process.Of(pid)
	if err != nil {
		return nil, unlessEnded(err)
	}
	x := &Examination{Scan: s, PID: pid, Start: id.Start, Budget: budget}
	found, err := examiner.Examine(ctx, clock.System{}, x, func() {})
	if err == nil && len(found.Files) == 0 || s.isDrover(pid) {
		return nil, nil
	}
	return found.Files, err
}

// isDrover reports whether a process of the host is one of Drover. Any process can choose its name, so the
// name counts only for processes of root.
func (s *Scan) isDrover(pid int) bool {
	if comm := mount.CommOf(pid); comm != CommDrover && comm != CommHand || !RunsAsRoot(pid) {
		return false
	}
	view, err := s.TableOf(filepath.Join("/proc", strconv.Itoa(pid)), func(int) error { return nil })
	return err == nil && view == nil
}

// Openers returns the processes that have a file of a tree open, and after them every process that could not be
// examined. The tree must be one of those that were passed to FindOpenFiles. ignored may be nil. Otherwise Openers
// ignores files that were opened through a mount of the host for which ignored returns true.
func (f *Files) Openers(tree mount.Filesystem, ignored func(*mount.Entry) bool) (list []Opener) {
	h := NewTreeUse(f.own, tree, nil)
	uses := func(f File) bool {
		m := f.through
		return h.isUsedBy(f) && (ignored == nil || m.Entry == nil || m.in != nil || !ignored(m.Entry))
	}
	var unexamined []Opener
	for _, o := range f.opened {
		found := o.Opener
		if found.Unexamined != nil {
			unexamined = append(unexamined, found)
		} else if i := slices.IndexFunc(o.files, uses); i >= 0 {
			found.Path = h.relative(o.files[i])
			list = append(list, found)
		}
	}
	return append(list, unexamined...)
}

// isUsedBy reports whether an open file prevents the tree from being replaced or removed. For a file whose exact path
// is unknown, it is less strict than Includes, which a fence uses. A removed file does not count, because no tree
// contains it. For a file with several names, only the name that the kernel shows counts. Otherwise any user could keep
// every tree of a filesystem in use, with one file on a detached mount in a user namespace.
//
// A file that is open only for reading counts if the tree is a whole filesystem: the reader keeps that filesystem
// alive. Of a tree in the filesystem of the pool, the reader keeps only the old content.
func (h *TreeUse) isUsedBy(f File) bool {
	switch {
	case f.readOnly && h.fsys.Root != "/":
		return false
	case f.unplaced && f.removed:
		return false
	case f.unplaced && f.name != "":
		f.path, f.unplaced = f.name, false
	}
	return h.Includes(f)
}

// relative returns the path of a file below the root of the tree, or "" if that is unknown.
func (h *TreeUse) relative(f File) string {
	if f.name != "" {
		f.path, f.unplaced = f.name, false
	}
	if f.unplaced || !within(f.path, h.fsys.Root) {
		return ""
	}
	return filepath.Join(".", strings.TrimPrefix(f.path, h.fsys.Root))
}
