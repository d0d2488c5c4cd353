package hand

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// suspects are the processes that could not be examined in time and so may hold a dataset. They are
// stopped first and then examined in the background. A suspect that holds the dataset stays stopped, the
// others continue. Safe for concurrent use.
type suspects struct {
	mu      sync.Mutex
	queue   map[processKey]*suspect
	running bool
	// cleared are those that were shown, while they were stopped, not to hold a dataset. A later
	// look that has no time for them need not stop them again: what they could get since, they
	// would get from a process that runs and holds the dataset.
	cleared map[uuid.UUID]map[processKey]bool
}

// processKey identifies a process. The PID alone does not, because the kernel reuses PIDs.
type processKey struct {
	pid   int
	start uint64
}

func (p Process) key() processKey { return processKey{p.PID, p.Start} }

type suspect struct {
	Process
	targets map[uuid.UUID]Target // of which it may hold something
	failed  bool                 // its examination failed
}

// has reports whether a process is queued for examination.
func (s *suspects) has(p Process) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queue[p.key()] != nil
}

// failed reports whether a process is queued and its examination, which has no time limit, has failed.
func (s *suspects) failed(p Process) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queue[p.key()]
	return q != nil && q.failed
}

// isCleared reports whether a process was shown not to hold a dataset.
func (s *suspects) isCleared(id uuid.UUID, p Process) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cleared[id][p.key()]
}

// forget drops what is known with respect to a dataset.
func (s *suspects) forget(id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.cleared, id)
	for key, q := range s.queue {
		if delete(q.targets, id); len(q.targets) == 0 {
			delete(s.queue, key)
		}
	}
}

// add queues a process for its examination with respect to a dataset. It reports whether the caller
// must start the examination of the queue.
func (s *suspects) add(target Target, p Process) (start bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queue[p.key()]
	if q == nil {
		q = &suspect{Process: p, targets: map[uuid.UUID]Target{}}
		if s.queue == nil {
			s.queue = map[processKey]*suspect{}
		}
		s.queue[p.key()] = q
	}
	q.targets[target.Dataset] = target
	start = !s.running
	s.running = true
	return start
}

// take returns all that wait, and the datasets that they wait for. It ends the run when there is
// nothing that was not tried since the run began.
func (s *suspects) take(tried map[processKey]bool) (list []suspect, targets map[uuid.UUID]Target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	targets = map[uuid.UUID]Target{}
	for key, q := range s.queue {
		if tried[key] {
			continue
		}
		copied := suspect{Process: q.Process, targets: map[uuid.UUID]Target{}}
		for id, target := range q.targets {
			copied.targets[id], targets[id] = target, target
		}
		list = append(list, copied)
	}
	if len(list) == 0 {
		s.running = false
	}
	return list, targets
}

// settle takes a process off the queue that was examined for some datasets. What it was queued for
// meanwhile stays.
func (s *suspects) settle(p suspect, clear []uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range clear {
		if s.cleared == nil {
			s.cleared = map[uuid.UUID]map[processKey]bool{}
		}
		if s.cleared[id] == nil {
			s.cleared[id] = map[processKey]bool{}
		}
		s.cleared[id][p.key()] = true
	}
	q := s.queue[p.key()]
	if q == nil {
		return
	}
	for id := range p.targets {
		delete(q.targets, id)
	}
	if len(q.targets) == 0 {
		delete(s.queue, p.key())
	}
}

func (s *suspects) fail(p suspect) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.queue[p.key()]; q != nil {
		q.failed = true
	}
}

// suspect stops processes that could not be examined, and queues them for examination. It reports whether
// it stopped any. It ignores protected processes.
func (t *Tool) suspect(target Target, list []*process) (acted bool, err error) {
	var stop []Process
	var marks []mark
	start := false
	for _, p := range list {
		if p.protected(target) {
			continue
		}
		m := mark{markSuspect, p.what()}
		stop, marks = append(stop, p.Process), append(marks, m)
	}
	if len(stop) == 0 {
		return false, nil
	}
	ours, err := t.noteProcesses(target.Dataset, stop, marks)
	if err != nil {
		return false, err
	}
	var errs []error
	for i, p := range stop {
		start = t.suspects.add(target, p) || start
		if ours[i] && !halted(p) {
			acted = true
			errs = append(errs, signal(p, unix.SIGSTOP))
		}
	}
	if start {
		t.wg.Go(t.examineSuspects) // Wait waits for it
	}
	return acted, errors.Join(errs...)
}

// resumeSuspects queues the processes that an earlier hand stopped and did not examine.
func (t *Tool) resumeSuspects(target Target, marks []mark) {
	start := false
	for _, m := range marks {
		if p, err := m.process(); m.kind == markSuspect && err == nil {
			start = t.suspects.add(target, p) || start
		}
	}
	if start {
		t.wg.Go(t.examineSuspects)
	}
}

// examineSuspects examines what is queued until nothing is left that it has not tried.
func (t *Tool) examineSuspects() {
	tried := map[processKey]bool{}
	for {
		list, targets := t.suspects.take(tried)
		if len(list) == 0 {
			return
		}
		w, err := t.list(targets)
		for _, s := range list {
			tried[s.key()] = true
			if err != nil {
				t.suspects.fail(s)
				continue
			}
			t.examineSuspect(w, s)
		}
	}
}

func (t *Tool) examineSuspect(w *world, s suspect) {
	at := slices.IndexFunc(w.procs, func(p *process) bool { return p.PID == s.PID })
	if at >= 0 {
		w.identify(w.procs[at])
	}
	if at >= 0 && !w.procs[at].is(s.Process) && w.procs[at].unexamined == nil {
		at = -1 // another process has its PID
	}
	if at < 0 {
		t.resolve(w, s, &process{Process: s.Process}) // it has ended
		return
	}
	p := w.procs[at]
	if w.weigh(p); p.gone {
		t.resolve(w, s, &process{Process: s.Process})
		return
	}
	if p.unexamined != nil || !t.hanging.begin(p.key()) {
		t.suspects.fail(s)
		return
	}
	x := &examination{w: w, p: p}
	done := make(chan result, 1)
	go func() {
		// The hand runs before all that is not real-time. This may take seconds and must not.
		runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
		_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, 0)
		f, err := x.run()
		t.hanging.end(p.key())
		done <- result{f, err}
	}()
	r, ok := await(context.Background(), t.Clock, x, done, func() {})
	if !ok || r.err != nil {
		t.suspects.fail(s)
		return
	}
	p.views, p.opens = r.views, r.opens
	t.resolve(w, s, p)
}

// resolve decides about a process that was examined: with respect to each dataset it is a holder,
// which stays stopped, or is cleared. One that nothing keeps stopped goes on.
func (t *Tool) resolve(w *world, s suspect, p *process) {
	defer t.lockMarks()()
	var clear []uuid.UUID
	stopped := false
	for id, target := range s.targets {
		marks, err := t.marks(id)
		if err != nil {
			t.suspects.fail(s)
			return
		}
		suspicion := mark{markSuspect, s.what()}
		marked := slices.Contains(marks, suspicion)
		stopped = stopped || marked
		marks = slices.DeleteFunc(marks, func(m mark) bool { return m == suspicion })
		fsys := w.filesystem(target)
		if fsys.ok && w.newHolding(target, fsys.Filesystem).by(p) {
			if certain := (mark{markProcess, s.what()}); marked && !slices.Contains(marks, certain) {
				marks = append(marks, certain)
			}
		} else {
			clear = append(clear, id)
		}
		if marked {
			if err := t.setMarks(id, marks); err != nil {
				t.suspects.fail(s)
				return
			}
		}
	}
	t.suspects.settle(s, clear)
	if !stopped {
		return
	}
	if others, err := t.marksOfAll(uuid.Nil); err == nil && !others.has(s.what()) {
		_ = signal(s.Process, unix.SIGCONT) // one that is gone, or is not ours to signal, stays as it is
	}
}

// what identifies a process in a mark.
func (p Process) what() string { return fmt.Sprintf("%d %d", p.PID, p.Start) }
