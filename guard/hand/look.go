package hand

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/mount"
)

const (
	// maxExaminers is the maximum number of processes that a look, or a batch of suspects, examines at once.
	maxExaminers = 4
	// examineTime bounds the time that one look spends on large processes. The other bound is the remaining time of
	// the caller divided by examinePart. Large processes that were not examined within that time become suspects:
	// they are stopped, and examined later.
	//
	// examineTime is short, so that the second look of a rung has as much time as the first. Otherwise the second look
	// would find more processes to stop, and a third look would be needed.
	examineTime = 150 * time.Millisecond
	examinePart = 3
)

// look is one pass over all processes, which several callers can share. It may not have begun yet.
type look struct {
	began    time.Duration        // by the steady clock
	targets  map[uuid.UUID]Target // the datasets whose holders it finds
	within   time.Duration        // the maximum time for large processes: see examineTime
	listed   chan struct{}        // closed after Tool.list has returned; table and err are set then
	examined chan struct{}        // closed after Tool.examineAll has returned too
	table    *processTable
	err      error
}

// isFor reports whether a look finds the holders of a dataset.
func (l *look) isFor(target Target) bool {
	of, ok := l.targets[target.Dataset]
	return ok && of.Filesystem == target.Filesystem && slices.Equal(of.Paths, target.Paths)
}

// namespaces waits until all processes are listed with their mount namespaces, except those with a large
// mount table. The duration does not depend on the open files of the processes. It fails if the
// processes cannot be listed, or with the error of ctx.
//
// Until descriptors has returned, the caller must not use the fields of a process that examineAll sets:
// see holdersByMounts.
func (l *look) namespaces(ctx context.Context) (*processTable, error) {
	select {
	case <-l.listed:
		return l.table, l.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// descriptors waits until the processes have been examined, as many as the time allowed. It fails only
// with the error of ctx.
func (l *look) descriptors(ctx context.Context) error {
	select {
	case <-l.examined:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// looks shares a look between callers: a hundred datasets that are fenced at once need two or three looks,
// not hundreds. Safe for concurrent use.
type looks struct {
	mu            sync.Mutex
	running, next *look
	// acted is the time at which a process was last stopped or killed for a dataset. Before that, it is the time at
	// which the first look for the dataset was requested. Only a look that began after this time shows whether an act
	// is done.
	acted map[uuid.UUID]time.Duration

	looking atomic.Bool // a look is under way
}

// recordAct records that something was stopped or killed for a dataset.
func (ls *looks) recordAct(id uuid.UUID, now time.Duration) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.acted[id] = now
}

// forget removes a dataset, so that the next act on it begins with a new look.
func (ls *looks) forget(id uuid.UUID) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	delete(ls.acted, id)
}

// begin returns a look for the holders of a dataset that begins after the last act on them. If such a look is under way
// already, begin returns it and not the next one: on a host with very many processes a look takes longer than a rung of
// the ladder, so the rung would end before the next look.
func (ls *looks) begin(ctx context.Context, t *Tool, target Target) *look {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	acted, known := ls.acted[target.Dataset]
	if !known {
		if ls.acted == nil {
			ls.acted = map[uuid.UUID]time.Duration{}
		}
		ls.acted[target.Dataset] = t.Clock.Steady()
	} else if l := ls.running; l != nil && l.began > acted && l.isFor(target) {
		return l
	}
	l := ls.next
	if l == nil {
		l = &look{
			targets:  map[uuid.UUID]Target{},
			within:   examineTime,
			listed:   make(chan struct{}),
			examined: make(chan struct{}),
		}
		ls.next = l
		if ls.running == nil {
			go ls.run(t) // ends when no look is requested any more
		}
	}
	l.targets[target.Dataset] = target
	if at, ok := ctx.Deadline(); ok {
		l.within = min(l.within, at.Sub(clock.Deadline(0))/examinePart)
	}
	return l
}

// maxLookPause is the longest pause between two looks.
const maxLookPause = 100 * time.Millisecond

// run performs looks until no look is requested any more. After each look it pauses for as long as the look took,
// because the processes that must stop or end need processor time as well.
func (ls *looks) run(t *Tool) {
	for {
		ls.mu.Lock()
		ls.running, ls.next = ls.next, nil
		l := ls.running
		if l != nil {
			l.began = t.Clock.Steady()
		}
		ls.mu.Unlock()
		if l == nil {
			return
		}
		ls.looking.Store(true)
		l.table, l.err = t.list(l.targets)
		close(l.listed)
		if l.err == nil {
			t.examineAll(l.table, l.within)
		}
		close(l.examined)
		ls.looking.Store(false)
		<-t.Clock.After(min(t.Clock.Steady()-l.began, maxLookPause))
	}
}

// list lists all processes except t.Spare, with the mount namespace of their first thread unless its
// mount table is large. It fails if /proc or the host's mount table cannot be read. An error of one
// process is stored in its unexamined field.
func (t *Tool) list(targets map[uuid.UUID]Target) (*processTable, error) {
	own, err := mount.Table()
	if err != nil {
		return nil, err
	}
	scan, err := inuse.NewScan(own)
	if err != nil {
		return nil, err
	}
	w := &processTable{own: own, scan: scan, datasets: slices.Collect(maps.Keys(targets))}
	for _, target := range targets {
		if fsys := w.filesystem(target); fsys.ok {
			w.scan.AddTree(fsys.Filesystem, fsys.entry)
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || slices.Contains(t.Spare, pid) {
			continue
		}
		w.procs = append(w.procs, &process{Process: Process{PID: pid}})
	}
	forEachConcurrently(maxExaminers, w.procs, func(p *process, _ func()) { w.readFirstThread(p) })
	return w, nil
}

// readFirstThread reads the mount namespace of the first thread of a process, unless its mount table is large. For a
// process in the host's namespace, that takes one system call.
func (w *processTable) readFirstThread(p *process) {
	v, err := w.scan.SmallTableOf(procDir(p.PID))
	switch {
	case errors.Is(err, inuse.ErrLargeTable):
		p.unread = true
	case err == nil && v == nil:
		p.host = true
	case err == nil:
		p.found.Views = []*inuse.View{v}
		if w.identify(p); p.Start != 0 { // holdersByMounts reads the identity later, without a lock
			p.first = v
		}
	case !mount.Ended(err): // the first thread of a process may have ended before the others
		p.unexamined = err
	}
}

// identify reads the start time and the name of a process, once.
func (w *processTable) identify(p *process) {
	if p.Start != 0 || p.gone {
		return
	}
	st, err := statOf(procDir(p.PID))
	switch {
	case err == nil:
		p.Start, p.Comm, p.gone, p.threads = st.start, st.comm, st.kernel, st.threads
	case mount.Ended(err):
		p.gone = true
	default:
		p.unexamined = err
	}
}

// estimate identifies a process and estimates the work to examine it. It recognizes engines and other spared processes.
// It sets gone for a process that must not be examined: one that has ended, a kernel thread, or another hand. A hand
// has a directory of the dataset open while it freezes the filesystem.
func (w *processTable) estimate(p *process) {
	if w.identify(p); p.gone {
		return
	}
	if p.host && p.Comm == inuse.CommHand && inuse.RunsAsRoot(p.PID) {
		p.gone = true
		return
	}
	if p.host {
		// engines write into volumes themselves, during docker cp
		p.Engine = slices.Contains([]string{"dockerd", "podman"}, p.Comm) && inuse.RunsAsRoot(p.PID)
	}
	p.spared = p.PID == 1 || p.Engine || p.host && p.Comm == inuse.CommDrover && inuse.RunsAsRoot(p.PID)
	p.size = descriptorsOf(procDir(p.PID)) + p.threads*inuse.ThreadWork
	if p.unread {
		p.size += smallWork
	}
}

func procDir(pid int) string { return "/proc/" + strconv.Itoa(pid) }

// protected reports whether a process must not be stopped before it was examined: init, an engine, or Drover. Engines
// and Drover are recognized by their name together with their user ID, because any process can choose its name.
func (p *process) protected(target Target) bool { return p.spared || p.same(target.Agent) }

// descriptorsOf estimates how many descriptors a process has. Since Linux 6.2 the size of the folder is
// their number (proc_pid_fd(5)). Before that, descriptorsOf returns the size of the descriptor table
// (FDSize in proc_pid_status(5)).
func descriptorsOf(dir string) int {
	if st, err := os.Stat(dir + "/fd"); err == nil && st.Size() > 0 {
		return int(st.Size())
	}
	b, err := os.ReadFile(dir + "/status")
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(inuse.Field(b, "FDSize:")) // 0 on error: the budget still limits the work
	return n
}
