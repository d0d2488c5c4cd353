package hand

import (
	"bytes"
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

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/mount"
)

const (
	// lookers is how many processes are looked at at once.
	lookers = 4
	// lookTime is what one process has to let itself be looked at: one whose memory map
	// is locked by a thread that waits in the kernel keeps readers of its maps waiting.
	lookTime = 200 * time.Millisecond
)

// engines are the programs that write into volumes themselves, as docker cp does.
func engines() []string { return []string{"dockerd", "podman"} }

// see returns the world as it is now, or later.
func (t *Tool) see(ctx context.Context) (*world, error) {
	return t.world.see(ctx, t.Clock, t.take)
}

// scan is one look at all processes.
type scan struct {
	t   *Tool
	ns  string // the host's mount namespace
	own mount.Mounts

	mu    sync.Mutex
	views map[view]mount.Mounts
}

// view is what a process sees of the mounts: a namespace, from its root directory down,
// which chroot(2) may have moved.
type view struct {
	ns   string
	root [3]uint64
}

func (t *Tool) take() (*world, error) {
	own, err := mount.Table()
	if err != nil {
		return nil, err
	}
	ns, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	s := &scan{t: t, ns: ns, own: own, views: map[view]mount.Mounts{}}
	w := &world{own: own}
	pids := make(chan int)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range lookers {
		wg.Go(func() {
			for pid := range pids {
				p, state := s.patiently(pid)
				mu.Lock()
				if p.PID != 0 {
					w.procs = append(w.procs, p)
				}
				if state == unread {
					w.unread++
				}
				mu.Unlock()
			}
		})
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && !slices.Contains(t.Spare, pid) {
			pids <- pid
		}
	}
	close(pids)
	wg.Wait()
	return w, nil
}

// looks are the processes that are being looked at.
type looks struct {
	mu   sync.Mutex
	pids map[int]bool
}

func (l *looks) begin(pid int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pids[pid] {
		return false
	}
	if l.pids == nil {
		l.pids = map[int]bool{}
	}
	l.pids[pid] = true
	return true
}

func (l *looks) end(pid int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pids, pid)
}

type looked int

const (
	gone looked = iota
	seen
	unread
)

// patiently looks at a process for so long and no longer: first at where it is and what it
// has open, then at what it has mapped, which takes longest and is kept waiting most.
func (s *scan) patiently(pid int) (process, looked) {
	p, state := bounded(s, pid, s.process)
	if state != seen {
		return p.process, state
	}
	opens, state := bounded(s, pid, func(int) ([]open, bool) { return mappings(p.task, p.table), true })
	p.opens = append(p.opens, opens...)
	return p.process, max(state, seen)
}

// bounded gives up a look at a process after lookTime. The look ends when the kernel lets
// it, and until then the process is not looked at again: it holds a thread.
func bounded[T any](s *scan, pid int, look func(pid int) (T, bool)) (T, looked) {
	type result struct {
		v  T
		ok bool
	}
	var none T
	if !s.t.hanging.begin(pid) {
		return none, unread
	}
	c := make(chan result, 1)
	go func() {
		v, ok := look(pid)
		s.t.hanging.end(pid)
		c <- result{v, ok}
	}()
	select {
	case r := <-c:
		if r.ok {
			return r.v, seen
		}
		return none, gone
	case <-s.t.Clock.After(lookTime):
		return none, unread
	}
}

// process looks at one process; not ok when it is gone, or holds nothing because it is a
// zombie or a kernel thread.
func (s *scan) process(pid int) (p sight, ok bool) {
	dir := fmt.Sprintf("/proc/%d", pid)
	st, err := statOf(dir)
	if err != nil || st.kernel {
		return p, false
	}
	p.Process = Process{PID: pid, Start: st.start, Comm: st.comm}
	tasks, err := os.ReadDir(dir + "/task")
	if err != nil {
		return p, false
	}
	namespaces := map[string]bool{}
	opens := false
	for _, task := range tasks {
		at := dir + "/task/" + task.Name()
		ns, err := os.Readlink(at + "/ns/mnt")
		if err != nil {
			continue // it has ended
		}
		if ns != s.ns && !namespaces[ns] {
			namespaces[ns] = true
			if v, err := s.view(at, ns); err == nil {
				p.views = append(p.views, v)
			}
		}
		if !opens { // threads share their files
			if ns == s.ns && p.Comm == comm {
				return p, false
			}
			p.task, p.table = at, s.tableOf(at, ns)
			p.opens, opens = openPlaces(at, p.table), true
			p.Engine = ns == s.ns && slices.Contains(engines(), p.Comm)
		}
	}
	return p, opens
}

// sight is a process and what is needed to look at it further.
type sight struct {
	process
	task  string
	table mount.Mounts
}

func (s *scan) tableOf(task, ns string) mount.Mounts {
	if ns == s.ns {
		return s.own
	}
	v, err := s.view(task, ns)
	if err != nil {
		return nil // it has ended
	}
	return v
}

// view reads the mount table of a task, once for all that see the same.
func (s *scan) view(task, ns string) (mount.Mounts, error) {
	key := view{ns: ns, root: rootOf(task)}
	s.mu.Lock()
	m, ok := s.views[key]
	s.mu.Unlock()
	if ok {
		return m, nil
	}
	m, err := mount.TableOf(task)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.views[key] = m
	s.mu.Unlock()
	return m, nil
}

// rootOf identifies the root directory of a task. No server that may be dead is asked,
// hence AT_STATX_DONT_SYNC.
func rootOf(task string) [3]uint64 {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, task+"/root", unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err != nil {
		return [3]uint64{}
	}
	return [3]uint64{uint64(st.Dev_major), uint64(st.Dev_minor), st.Ino}
}

// openPlaces returns what a task has open of filesystems that are mounted where it is.
func openPlaces(task string, table mount.Mounts) []open {
	byID := make(map[int]*mount.Entry, len(table))
	for _, e := range table {
		byID[e.ID] = e
	}
	var found []open
	for _, name := range []string{"cwd", "root"} {
		var st unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, task+"/"+name, unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st)
		if e := byID[int(st.Mnt_id)]; err == nil && e != nil {
			if link, err := os.Readlink(task + "/" + name); err == nil {
				found = append(found, place(e, link))
			}
		}
	}
	fds, _ := os.ReadDir(task + "/fd") // one that just ended has none
	for _, fd := range fds {
		if o, ok := openFile(task, fd.Name(), byID); ok {
			found = append(found, o)
		}
	}
	return found
}

// openFile tells what a descriptor is open on, if it can be written through: a file that
// is open for writing, or any directory.
func openFile(task, fd string, byID map[int]*mount.Entry) (open, bool) {
	link, err := os.Readlink(filepath.Join(task, "fd", fd))
	if err != nil || !strings.HasPrefix(link, "/") || strings.HasPrefix(link, "/dev/") {
		return open{}, false
	}
	info, err := os.ReadFile(filepath.Join(task, "fdinfo", fd))
	if err != nil {
		return open{}, false
	}
	flags, _ := strconv.ParseUint(field(info, "flags:"), 8, 32)
	id, err := strconv.Atoi(field(info, "mnt_id:"))
	e := byID[id]
	if err != nil || e == nil {
		return open{}, false
	}
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		var st unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, filepath.Join(task, "fd", fd), unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
		if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return open{}, false
		}
	}
	return place(e, link), true
}

// field returns the word after a name in a file of "name: word" lines.
func field(b []byte, name string) string {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			return string(bytes.TrimSpace(rest))
		}
	}
	return ""
}

// mappings returns the files that a task has mapped shared and writable: it writes to them
// without a call, open or closed. proc_pid_maps(5).
func mappings(task string, table mount.Mounts) []open {
	b, err := os.ReadFile(task + "/maps")
	if err != nil {
		return nil
	}
	var found []open
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) < 6 || len(f[1]) != 4 || f[1][1] != 'w' || f[1][3] != 's' {
			continue
		}
		major, minor, ok := device(string(f[3]))
		path := string(bytes.Join(f[5:], []byte(" ")))
		if !ok || !strings.HasPrefix(path, "/") {
			continue
		}
		if e := seenThrough(table.Of(major, minor), path); e != nil {
			found = append(found, place(e, path))
		}
	}
	return found
}

// seenThrough returns the innermost of mounts that a path lies in.
func seenThrough(mounts mount.Mounts, path string) *mount.Entry {
	var best *mount.Entry
	for _, e := range mounts {
		if within(path, e.Mountpoint) && (best == nil || len(e.Mountpoint) >= len(best.Mountpoint)) {
			best = e
		}
	}
	return best
}

func device(s string) (major, minor int, ok bool) {
	a, b, _ := strings.Cut(s, ":")
	x, err1 := strconv.ParseUint(a, 16, 32)
	y, err2 := strconv.ParseUint(b, 16, 32)
	return int(x), int(y), errors.Join(err1, err2) == nil
}
