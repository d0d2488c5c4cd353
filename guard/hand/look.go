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

// look is one look at all processes, under way or waited for.
type look struct {
	began    time.Duration        // by the steady clock
	targets  map[uuid.UUID]Target // that it is for
	within   time.Duration        // the time for the descriptors
	listed   chan struct{}        // closed once all namespaces were read
	examined chan struct{}        // closed once the descriptors were read too
	world    *world
	err      error
}

// isFor reports whether a look keeps what is open of a dataset's filesystem.
func (l *look) isFor(target Target) bool {
	of, ok := l.targets[target.Dataset]
	return ok && of.Filesystem == target.Filesystem && slices.Equal(of.Paths, target.Paths)
}

// namespaces waits until all processes were listed with their mount namespaces. This takes constant
// time a process.
func (l *look) namespaces(ctx context.Context) (*world, error) {
	select {
	case <-l.listed:
		return l.world, l.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// descriptors waits until the descriptors were read too, of as many processes as was possible in
// time. Only then may the opens of a process be read.
func (l *look) descriptors(ctx context.Context) error {
	select {
	case <-l.examined:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// looks shares a look between all that want one at the same time: a hundred datasets that are
// fenced at once cost two or three looks, not hundreds.
type looks struct {
	mu            sync.Mutex
	running, next *look
	// acted is when something was last stopped or killed for a dataset, or its first look was
	// asked for. Only a look that began later shows whether that was enough.
	acted map[uuid.UUID]time.Duration
}

// didAct notes that something was stopped or killed for a dataset.
func (ls *looks) didAct(id uuid.UUID, now time.Duration) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.acted[id] = now
}

// forget drops what is known of a dataset: what it does next begins with a new look.
func (ls *looks) forget(id uuid.UUID) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	delete(ls.acted, id)
}

// begin returns a look at a dataset's holders that began after they were acted on last. It may be under
// way: on a host with very many processes a look takes longer than a rung of the ladder.
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
			go ls.run(t) // ends with the last look that somebody waits for
		}
	}
	l.targets[target.Dataset] = target
	if at, ok := ctx.Deadline(); ok {
		l.within = min(l.within, at.Sub(clock.Deadline(0))/examinePart)
	}
	return l
}

// rest bounds the pause between two looks.
const rest = 100 * time.Millisecond

// run looks for as long as somebody waits. Between two looks it rests as long as one took:
// those that are to be stopped need the processor too, to come to their end.
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

// first reads the mount namespace of a process, which takes one system call for those of the host.
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

// identify reads when a process began and its name, once.
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

// weigh identifies a process and finds out how it is to be examined. One that has ended, a thread of
// the kernel and another hand, which has a directory of the dataset open while it freezes, are not.
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

// engines are the programs that write into volumes themselves, as docker cp does.
func engines() []string { return []string{"dockerd", "podman"} }

// drover is the name of Drover's processes.
const drover = "drover"

// protected reports whether a process must never be stopped before it was examined: init, an
// engine, Drover. A name alone is no proof: a process chooses it.
func (p *process) protected(target Target) bool { return p.spared || p.is(target.Agent) }

// byRoot reports whether a process has only the user ID 0 of the host.
func byRoot(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	return slices.Equal(strings.Fields(field(b, "Uid:")), []string{"0", "0", "0", "0"})
}

// descriptorsOf estimates how many descriptors a process has. Since Linux 6.2 it is the size of the
// folder (proc_pid_fd(5)); before that the size of the table serves (FDSize in proc_pid_status(5)).
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
