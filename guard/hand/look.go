package hand

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/mount"
)

const (
	// lookers is how many processes are examined at once.
	lookers = 4
	// examineTime bounds the examination of processes with very many descriptors in one look,
	// together with the part of its context that the caller has left. Those that are not examined
	// by then are stopped first.
	examineTime = 300 * time.Millisecond
	examinePart = 3
)

// look is one look at all processes. It may not have begun yet.
type look struct {
	began    time.Duration        // by the steady clock
	targets  map[uuid.UUID]Target // the datasets whose holders it finds
	within   time.Duration        // the time for the descriptors of processes that have very many
	listed   chan struct{}        // closed when all namespaces have been read; world and err are valid then
	examined chan struct{}        // closed when the descriptors have been read too
	world    *world
	err      error
}

// isFor reports whether a look finds the holders of a dataset.
func (l *look) isFor(target Target) bool {
	of, ok := l.targets[target.Dataset]
	return ok && of.Filesystem == target.Filesystem && slices.Equal(of.Paths, target.Paths)
}

// namespaces waits until all processes are listed with their mount namespaces. The time for a process does
// not depend on how many descriptors it has. The caller must not use world.process.opens before
// descriptors has returned.
func (l *look) namespaces(ctx context.Context) (*world, error) {
	select {
	case <-l.listed:
		return l.world, l.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// descriptors waits until the descriptors have been read too, for as many processes as the time allowed.
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
	// acted is when something was last stopped or killed for a dataset, or its first look was
	// asked for. Only a look that began later shows whether that was enough.
	acted map[uuid.UUID]time.Duration
}

// didAct records that something was stopped or killed for a dataset.
func (ls *looks) didAct(id uuid.UUID, now time.Duration) {
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

// begin returns a look for the holders of a dataset that begins after the last act on them. If such a look
// is under way already, begin returns it: on a host with very many processes a look takes longer than a
// rung of the ladder, so waiting for the next one would take too long.
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
		l = &look{targets: map[uuid.UUID]Target{}, within: examineTime, listed: make(chan struct{}), examined: make(chan struct{})}
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

// rest is the longest pause between two looks.
const rest = 100 * time.Millisecond

// run performs looks until no look is requested any more. After each look it pauses for as long as the
// look took: the processes that must stop or end need processor time as well.
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
		l.world, l.err = t.list(l.targets)
		close(l.listed)
		if l.err == nil {
			t.examineAll(l.world, l.within)
		}
		close(l.examined)
		<-t.Clock.After(min(t.Clock.Steady()-l.began, rest))
	}
}

// list lists all processes with the mount namespace of their first thread.
func (t *Tool) list(targets map[uuid.UUID]Target) (*world, error) {
	own, err := mount.Table()
	if err != nil {
		return nil, err
	}
	tables, err := newMountTables(own)
	if err != nil {
		return nil, err
	}
	w := &world{own: own, mounts: tables}
	for _, target := range targets {
		w.addDevice(target)
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
		w.procs = append(w.procs, w.first(pid))
	}
	return w, nil
}

// first reads the mount namespace of the first thread of a process. That takes one system call for a
// process in the host's namespace.
func (w *world) first(pid int) *process {
	p := &process{Process: Process{PID: pid}}
	dir := procDir(pid)
	v, err := w.mounts.of(dir)
	switch {
	case err == nil && v == nil:
		p.host = true
	case err == nil:
		p.first, p.views = v, []*view{v}
		w.identify(p)
	case !mount.Ended(err): // the first thread of a process may have ended before the others
		p.unexamined = err
	}
	return p
}

// identify reads the start time and the name of a process, once.
func (w *world) identify(p *process) {
	if p.Start != 0 || p.gone {
		return
	}
	st, err := statOf(procDir(p.PID))
	switch {
	case err == nil:
		p.Start, p.Comm, p.gone = st.start, st.comm, st.kernel
	case mount.Ended(err):
		p.gone = true
	default:
		p.unexamined = err
	}
}

// weigh identifies a process and collects what the order of examination depends on. It sets gone for a
// process that must not be examined: one that has ended, a kernel thread, or another hand, which has a
// directory of the dataset open while it freezes.
func (w *world) weigh(p *process) {
	if w.identify(p); p.gone {
		return
	}
	if p.host && p.Comm == comm && byRoot(p.PID) {
		p.gone = true
		return
	}
	p.Engine = p.host && slices.Contains(engines(), p.Comm) && byRoot(p.PID)
	p.spared = p.PID == 1 || p.Engine || p.host && p.Comm == drover && byRoot(p.PID)
	p.size = descriptorsOf(procDir(p.PID))
}

func procDir(pid int) string { return "/proc/" + strconv.Itoa(pid) }

// engines lists the container engines. They write into volumes themselves, during docker cp.
func engines() []string { return []string{"dockerd", "podman"} }

// drover is the name of Drover's processes.
const drover = "drover"

// protected reports whether a process must not be stopped before it was examined: init, an engine, or
// Drover. Engines and Drover are recognized by name and user ID, because any process can choose its name.
func (p *process) protected(target Target) bool { return p.spared || p.is(target.Agent) }

// byRoot reports whether all user IDs of a process are 0 on the host.
func byRoot(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	return slices.Equal(strings.Fields(field(b, "Uid:")), []string{"0", "0", "0", "0"})
}

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
	n, _ := strconv.Atoi(field(b, "FDSize:")) // only an order to examine in
	return n
}

// examineAll reads the descriptors of all processes. Of those that have very many it reads as many as
// the time allows, the smaller ones first; all others are always read, however busy the host is.
func (t *Tool) examineAll(w *world, within time.Duration) {
	atOnce(w.procs, func(p *process, _ func()) { w.weigh(p) })
	queue := slices.DeleteFunc(slices.Clone(w.procs), func(p *process) bool { return p.gone })
	slices.SortStableFunc(queue, func(a, b *process) int {
		if a.large() != b.large() {
			if a.large() {
				return 1
			}
			return -1
		}
		return a.size - b.size
	})
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	atOnce(queue, func(p *process, release func()) {
		patience := context.Background()
		if p.large() {
			patience = ctx
		}
		t.examine(patience, w, p, release)
	})
}

// atOnce calls do for each process, for some at once, and waits for all. A call may let another one
// begin before it ends.
func atOnce(list []*process, do func(p *process, release func())) {
	slots := make(chan struct{}, lookers)
	var wg sync.WaitGroup
	for _, p := range list {
		slots <- struct{}{}
		wg.Go(func() {
			release := sync.OnceFunc(func() { <-slots })
			defer release()
			do(p, release)
		})
	}
	wg.Wait()
}

// manyDescriptors is from how many descriptors on a process may be stopped before it was examined. To
// examine that many takes some milliseconds. Few processes have so many: databases, proxies, brokers.
const manyDescriptors = 1024

func (p *process) large() bool { return p.size >= manyDescriptors && !p.spared }

// examine examines one process and puts what it found, or why it found nothing, into p. A process
// that is being examined already, in an examination that hangs, is not examined again: that one has
// a thread of this process. It calls release, which lets another examination begin, when it gets on no
// more.
func (t *Tool) examine(ctx context.Context, w *world, p *process, release func()) {
	if p.unexamined != nil {
		return
	}
	if ctx.Err() != nil || t.suspects.has(p.Process) {
		p.unexamined = errOutOfTime
		return
	}
	if !t.hanging.begin(p.key()) {
		p.unexamined, p.hung = errHung, true
		return
	}
	x := &examination{w: w, p: p}
	done := make(chan result, 1)
	go func() {
		f, err := x.run()
		t.hanging.end(p.key())
		done <- result{f, err}
	}()
	if r, ok := await(ctx, t.Clock, x, done, release); !ok {
		p.unexamined, p.hung = errHung, true
	} else if p.unexamined = r.err; r.err == nil {
		p.views, p.opens = r.views, r.opens
	}
}

// result is what came of an examination.
type result struct {
	findings
	err error
}

const (
	// idleTime is after how long without progress an examination lets another one begin, and
	// hungTime after how long it is given up. A process whose memory map is locked by a thread
	// that waits in the kernel keeps readers of the map waiting.
	idleTime = 20 * time.Millisecond
	hungTime = 500 * time.Millisecond
)

// await waits for an examination. When ctx ends it asks the examination to stop. It calls idle when the
// examination gets on no more, and returns false for one that hangs.
func await(ctx context.Context, c clock.Clock, x *examination, done <-chan result, idle func()) (result, bool) {
	progress, since := int64(-1), time.Duration(0)
	stop := ctx.Done()
	for {
		select {
		case r := <-done:
			return r, true
		case <-stop:
			x.stop.Store(true)
			stop = nil
		case <-c.After(idleTime):
		}
		now := x.progress.Load()
		if now != progress {
			progress, since = now, c.Steady()
			continue
		}
		idle()
		if c.Steady()-since >= hungTime {
			x.stop.Store(true)
			return result{}, false
		}
	}
}
