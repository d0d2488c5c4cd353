package hand

import (
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
)

// suspects are the processes that could not be examined in time and so may hold a dataset. They are
// stopped first and then examined in the background. A suspect that holds the dataset stays stopped, the
// others continue. Safe for concurrent use.
type suspects struct {
	mu      sync.Mutex
	queue   map[processKey]*suspect
	running bool
	// cleared contains, for each dataset, the processes that were shown not to hold the dataset while they were
	// stopped, and the time of their last examination. If a later look has no time to examine such a process, the
	// process need not be stopped again. It could get the dataset only from another process that holds it and runs.
	cleared map[uuid.UUID]map[processKey]time.Duration
	// fences counts how often each dataset was forgotten. A result is applied to a dataset only if this count has not
	// changed since the suspect was taken from the queue, so that results for one fence are not applied to the next.
	fences map[uuid.UUID]int
}

// processKey identifies a process. The PID alone does not, because the kernel reuses PIDs.
type processKey struct {
	pid   int
	start uint64
}

func (p Process) key() processKey { return processKey{p.PID, p.Start} }

// suspect is a process that is queued for examination.
type suspect struct {
	Process
	targets map[uuid.UUID]Target // the datasets that it may hold
	queued  time.Duration        // when it was queued, by the steady clock
	failed  bool                 // its examination failed
	fences  map[uuid.UUID]int    // suspects.fences of its targets, when it was taken

	seen  *process // its entry in the list of all processes
	begun bool     // its examination began
}

// has reports whether a process is queued for examination.
func (s *suspects) has(p Process) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queue[p.key()] != nil
}

// isStuck reports whether a process was stopped for its examination, was queued at least haltTime ago, and
// cannot be examined: its examination hangs or has failed.
func (s *suspects) isStuck(p *process, now time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queue[p.key()]
	return q != nil && now-q.queued >= haltTime && (p.hung || q.failed)
}

// isCleared reports whether a process was shown not to hold a dataset.
func (s *suspects) isCleared(id uuid.UUID, p Process) bool {
	_, ok := s.clearedOf([]uuid.UUID{id}, p)
	return ok
}

// clearedOf returns when a process that is cleared for all of some datasets was last examined. ok is false
// if it is not cleared for one of them.
func (s *suspects) clearedOf(ids []uuid.UUID, p Process) (at time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, id := range ids {
		one, ok := s.cleared[id][p.key()]
		if !ok {
			return 0, false
		}
		if i == 0 || one < at {
			at = one
		}
	}
	return at, len(ids) > 0
}

// renew records that a look examined a cleared process again. It does so whatever the look found: if the process is a
// holder now, the act that requested the look stops or kills it.
func (s *suspects) renew(ids []uuid.UUID, p Process, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if _, ok := s.cleared[id][p.key()]; ok {
			s.cleared[id][p.key()] = now
		}
	}
}

// forget removes a dataset from the queue and from cleared, when Undo ends its fence.
func (s *suspects) forget(id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.cleared, id)
	if s.fences == nil {
		s.fences = map[uuid.UUID]int{}
	}
	s.fences[id]++
	for key, q := range s.queue {
		if delete(q.targets, id); len(q.targets) == 0 {
			delete(s.queue, key)
		}
	}
}

// add queues a process for its examination with respect to a dataset. It reports whether the caller
// must start the examination of the queue.
func (s *suspects) add(target Target, p Process, now time.Duration) (start bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queue[p.key()]
	if q == nil {
		q = &suspect{Process: p, targets: map[uuid.UUID]Target{}, queued: now}
		if s.queue == nil {
			s.queue = map[processKey]*suspect{}
		}
		s.queue[p.key()] = q
	}
	if _, known := q.targets[target.Dataset]; !known { // an examination that began earlier does not cover this dataset
		q.queued, q.failed = now, false
	}
	q.targets[target.Dataset] = target
	start = !s.running
	s.running = true
	return start
}

// take returns all suspects that wait, and the datasets that they may hold. tried has the value of suspect.queued at
// the last attempt for each process. If every suspect was tried since it was queued, take returns none. The caller
// must then end, because the next add starts a new run.
func (s *suspects) take(tried map[processKey]time.Duration) (list []suspect, targets map[uuid.UUID]Target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	targets = map[uuid.UUID]Target{}
	for key, q := range s.queue {
		if at, was := tried[key]; was && at == q.queued {
			continue
		}
		copied := suspect{
			Process: q.Process,
			targets: map[uuid.UUID]Target{},
			queued:  q.queued,
			fences:  map[uuid.UUID]int{},
		}
		for id, target := range q.targets {
			copied.targets[id], targets[id] = target, target
			copied.fences[id] = s.fences[id]
		}
		list = append(list, copied)
	}
	if len(list) == 0 {
		s.running = false
	}
	return list, targets
}

// finish removes a process from the queue after it was examined for p.targets, and clears it for some of these
// datasets. The process stays queued for datasets that were added meanwhile. finish ignores a dataset whose fence was
// undone meanwhile.
func (s *suspects) finish(p suspect, clear []uuid.UUID, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range clear {
		if s.fences[id] != p.fences[id] {
			continue
		}
		if s.cleared == nil {
			s.cleared = map[uuid.UUID]map[processKey]time.Duration{}
		}
		if s.cleared[id] == nil {
			s.cleared[id] = map[processKey]time.Duration{}
		}
		s.cleared[id][p.key()] = now
	}
	q := s.queue[p.key()]
	if q == nil {
		return
	}
	for id := range p.targets {
		if s.fences[id] == p.fences[id] {
			delete(q.targets, id)
		}
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

// stopSuspects stops processes that could not be examined, and queues them for examination. It reports whether
// it stopped any. It ignores protected processes.
func (t *Tool) stopSuspects(target Target, list []*process) (acted bool, err error) {
	var stop []Process
	for _, p := range list {
		if !p.protected(target) {
			stop = append(stop, p.Process)
		}
	}
	return t.halt(target, stop, markSuspect)
}

// contained reports whether all holders are harmless and all suspects can become harmless: each suspect can be
// examined, and only the time for it was missing.
func (t *Tool) contained(w *processTable, r rule, holders []Process, suspects []*process) bool {
	now := t.Clock.Steady()
	for _, p := range holders {
		if !r.holderHarmless(w, p) {
			return false
		}
	}
	for _, p := range suspects {
		if t.suspects.isStuck(p, now) && !r.suspectHarmless(w, p) {
			return false
		}
	}
	return len(suspects) > 0
}

// resumeSuspects queues the processes that an earlier hand stopped and did not examine.
func (t *Tool) resumeSuspects(target Target, marks []mark) {
	var list []Process
	for _, m := range marks {
		if p, err := m.process(); m.kind == markSuspect && err == nil {
			list = append(list, p)
		}
	}
	t.queueSuspects(target, list)
}

// queueSuspects queues processes for their examination with respect to a dataset, in the background.
func (t *Tool) queueSuspects(target Target, list []Process) {
	start := false
	for _, p := range list {
		start = t.suspects.add(target, p, t.Clock.Steady()) || start
	}
	if start {
		t.wg.Go(t.examineSuspects) // Wait waits for it
	}
}

// markText returns the text that identifies a process in a mark.
func (p Process) markText() string { return fmt.Sprintf("%d %d", p.PID, p.Start) }
