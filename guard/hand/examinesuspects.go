package hand

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/mount"
)

const (
	// batchTime is how long a batch starts new examinations. A batch also stops starting examinations when the mount
	// tables that it has read need too much memory. The next batch makes a new list of all processes. It examines the
	// remaining suspects, and suspects that were stopped meanwhile.
	batchTime = 5 * time.Second
	// haltTime is how long an examination waits for its suspect to stop. After that, the examination begins even if
	// the suspect still runs, for instance because a debugger continues it or because it waits in the kernel.
	haltTime = time.Second
)

// examineSuspects examines the queued suspects in batches, until it has tried each of them since it was
// queued. A suspect that cannot be examined stays in the queue. suspects.add and suspects.take ensure
// that only one call runs at a time.
func (t *Tool) examineSuspects() {
	tried := map[processKey]time.Duration{} // the value of suspect.queued at the last attempt
	for {
		list, targets := t.suspects.take(tried)
		if len(list) == 0 {
			return
		}
		if t.waitForHalt(list) {
			continue
		}
		w, err := t.list(targets)
		if err != nil {
			for _, s := range list {
				tried[s.key()] = s.queued
				t.suspects.fail(s)
			}
			continue
		}
		for _, s := range t.examineBatch(w, list) {
			tried[s.key()] = s.queued
		}
	}
}

// waitForHalt waits for stopPoll and returns true if a suspect has not stopped yet. The caller must then take the
// suspects from the queue again, and call waitForHalt again. It returns false if the examinations can begin: every
// suspect has stopped, or was queued at least haltTime ago, or the mount table cannot be read.
//
// A suspect must stop first because the examination does not find files that it opens later. Also, the
// fence waits until all suspects have stopped, and they need processor time to do so.
func (t *Tool) waitForHalt(list []suspect) bool {
	table, err := mount.Table()
	if err != nil {
		return false // the caller's list of processes fails with the same error
	}
	now := t.Clock.Steady()
	for _, s := range list {
		if now-s.queued < haltTime && !stoppedOrFrozen(&processTable{own: table}, s.Process) {
			<-t.Clock.After(stopPoll)
			return true
		}
	}
	return false
}

// examineBatch examines suspects, one for each processor at a time, but not more than maxExaminers. Suspects
// with little work come first, so that most suspects are stopped only briefly. It returns the suspects
// whose examination began.
func (t *Tool) examineBatch(w *processTable, list []suspect) (begun []suspect) {
	procs := make(map[int]*process, len(w.procs))
	for _, p := range w.procs {
		procs[p.PID] = p
	}
	queue := make([]*suspect, len(list))
	for i := range list {
		queue[i] = &list[i]
		queue[i].seen = w.find(procs[list[i].PID], list[i].Process)
	}
	slices.SortStableFunc(queue, func(a, b *suspect) int { return a.seen.size - b.seen.size })
	began := t.Clock.Steady()
	// An examination that makes no progress keeps its slot. On a very busy host, examinations only seem to hang. If
	// they released their slots, all of them would run at once, and looks would wait for them. There are at most
	// maxExaminers slots, because each examination may keep mount tables of mount.MaxTable bytes in memory.
	forEachConcurrently(min(runtime.GOMAXPROCS(0), maxExaminers), queue, func(s *suspect, _ func()) {
		if s.begun = t.Clock.Steady()-began < batchTime && !w.scan.Full(); s.begun {
			t.examineSuspect(w, *s)
		}
	})
	for _, s := range queue {
		if s.begun {
			begun = append(begun, *s)
		}
	}
	return begun
}

// find returns the process of the suspect s. p is the process with that PID in the list of all processes, or nil. If
// p is nil or a different process, the suspect has ended, and find returns a process with gone set. If the identity
// of p cannot be read, find returns p with its error, so that s is not cleared.
func (w *processTable) find(p *process, s Process) *process {
	if p != nil {
		if w.estimate(p); !p.gone && (p.same(s) || p.unexamined != nil) {
			return p
		}
	}
	return &process{Process: s, gone: true}
}

// examineSuspect examines one suspect without a time limit. Then it resolves the suspect, or marks it as
// failed.
func (t *Tool) examineSuspect(w *processTable, s suspect) {
	p := s.seen
	if p.gone {
		t.resolve(w, s, p)
		return
	}
	if p.unexamined != nil {
		t.suspects.fail(s)
		return
	}
	x := w.examinationOf(p)
	x.Pace = (&pacer{t, x, t.Clock.Steady()}).rest
	var err error
	if p.found, err = t.examiner.Examine(context.Background(), t.Clock, x, func() {}); err != nil {
		t.suspects.fail(s)
		return
	}
	t.resolve(w, s, p)
}

const (
	// workTime is how long the examination of a suspect works before it rests. Its rest is the time that it worked,
	// divided by restPart, but no longer than restTime.
	workTime = 5 * time.Millisecond
	restPart = 2
	restTime = 10 * time.Millisecond
	// lookRests is the maximum number of additional rests, of restTime each, while a look is under way.
	lookRests = 10
)

// pacer makes the examination of a suspect rest. The hand has real-time priority and such an examination may take
// many seconds, so it leaves a third of the time of each processor to other processes. While a look is under way, it
// leaves nearly all of that time to others, because a fence waits for the look.
//
// A thread with a lower priority would not help. While it waits for a processor, it occupies one of the
// few slots for running threads in Go (GOMAXPROCS), and the fence waits for it. On a busy host it would
// also progress too slowly for the stopped processes, which wait for it.
type pacer struct {
	t     *Tool
	x     *inuse.Examination
	since time.Duration
}

// rest rests if the examination has worked for workTime.
func (p *pacer) rest() {
	worked := p.t.Clock.Steady() - p.since
	if worked < workTime {
		return
	}
	<-p.t.Clock.After(min(worked/restPart, restTime))
	for i := 0; i < lookRests && p.t.looks.looking.Load(); i++ {
		p.x.Advance()
		<-p.t.Clock.After(restTime)
	}
	p.since = p.t.Clock.Steady()
}

// resolve applies the result of the examination of a suspect, for each dataset that it may hold. If the
// process is a holder of the dataset, its markSuspect becomes a markProcess, and it stays stopped.
// Otherwise resolve removes the mark and clears the process for the dataset.
//
// A process that is a holder of none of the datasets, and is not stopped for another dataset, continues
// at once. If the marks cannot be read or written, the suspect is marked as failed and stays stopped.
func (t *Tool) resolve(w *processTable, s suspect, p *process) {
	defer t.marks.lock()()
	elsewhere, err := t.marks.ofOthers(slices.Collect(maps.Keys(s.targets))...)
	if err != nil {
		t.suspects.fail(s)
		return
	}
	var clear []uuid.UUID
	stopped, kept := false, elsewhere[s.markText()]
	for id, target := range s.targets {
		marks, err := t.marks.of(id)
		if err != nil {
			t.suspects.fail(s)
			return
		}
		suspicion := mark{markSuspect, s.markText()}
		marked := slices.Contains(marks, suspicion)
		stopped = stopped || marked
		marks = slices.DeleteFunc(marks, func(m mark) bool { return m == suspicion })
		fsys := w.filesystem(target)
		certain := mark{markProcess, s.markText()}
		if fsys.ok && w.newHolding(target, fsys.Filesystem).CanWrite(p.found) {
			if marked && !slices.Contains(marks, certain) {
				marks = append(marks, certain)
			}
		} else {
			clear = append(clear, id)
		}
		kept = kept || slices.Contains(marks, certain)
		if marked {
			if err := t.marks.write(id, marks); err != nil {
				t.suspects.fail(s)
				return
			}
		}
	}
	t.suspects.finish(s, clear, t.Clock.Steady())
	if stopped && !kept {
		_ = signal(s.Process, unix.SIGCONT) // if the hand may not signal the process, it did not stop it
	}
}
