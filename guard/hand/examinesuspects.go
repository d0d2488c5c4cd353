package hand

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/mount"
)

const (
	// batchTime is for how long a batch begins examinations. The suspects that are left are examined
	// in the next batch, by a new list of all processes and together with those that were stopped since.
	batchTime = 5 * time.Second
	// haltTime is how long the examination of a suspect waits until the suspect has stopped. One that
	// a debugger keeps running, or that waits in the kernel, is examined then all the same.
	haltTime = time.Second
)

// examineSuspects examines what is queued until nothing is left that it has not tried.
func (t *Tool) examineSuspects() {
	tried := map[processKey]bool{}
	for {
		list, targets := t.suspects.take(tried)
		if len(list) == 0 {
			return
		}
		if t.comesToAHalt(list) {
			continue
		}
		w, err := t.list(targets)
		if err != nil {
			for _, s := range list {
				tried[s.key()] = true
				t.suspects.fail(s)
			}
			continue
		}
		for _, s := range t.examineBatch(w, list) {
			tried[s.key()] = true
		}
	}
}

// comesToAHalt waits a little if a suspect has not stopped yet but may do so in time. What a process
// opens after its descriptors were read is not seen. And the fence waits until all have stopped: they
// need the processor for that.
func (t *Tool) comesToAHalt(list []suspect) bool {
	table, err := mount.Table()
	if err != nil {
		return false // which the list of processes fails with too
	}
	now := t.Clock.Steady()
	for _, s := range list {
		if now-s.queued < haltTime && !t.still(&world{own: table}, s.Process) {
			<-t.Clock.After(pause)
			return true
		}
	}
	return false
}

// examineBatch examines suspects, one for each processor at once. Those with the fewest descriptors are
// first, so that few wait for long. It returns the suspects whose examination began.
func (t *Tool) examineBatch(w *world, list []suspect) (begun []suspect) {
	procs := make(map[int]*process, len(w.procs))
	for _, p := range w.procs {
		procs[p.PID] = p
	}
	queue := make([]*suspect, len(list))
	for i := range list {
		queue[i] = &list[i]
		queue[i].seen = w.seen(procs[list[i].PID], list[i].Process)
	}
	slices.SortStableFunc(queue, func(a, b *suspect) int { return a.seen.size - b.seen.size })
	began := t.Clock.Steady()
	// One that makes no progress keeps its place until it is given up. On a host so busy that examinations
	// only seem to hang, all of them would be under way at once otherwise, and looks would wait for them.
	atOnce(runtime.GOMAXPROCS(0), queue, func(s *suspect, _ func()) {
		if s.begun = t.Clock.Steady()-began < batchTime; s.begun {
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

// seen returns what a look saw of a suspect under its PID. It is gone if the PID is another process's now.
func (w *world) seen(p *process, s Process) *process {
	if p != nil {
		if w.weigh(p); !p.gone && (p.is(s) || p.unexamined != nil) {
			return p
		}
	}
	return &process{Process: s, gone: true}
}

func (t *Tool) examineSuspect(w *world, s suspect) {
	p := s.seen
	if p.gone {
		t.resolve(w, s, p)
		return
	}
	if p.unexamined != nil || !t.hanging.begin(p.key()) {
		t.suspects.fail(s)
		return
	}
	x := &examination{w: w, p: p}
	x.pace = (&pacer{t, x, t.Clock.Steady()}).rest
	done := make(chan result, 1)
	go func() {
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

const (
	// workTime is how long the examination of a suspect works before it rests, for one restPart of the
	// time that it worked and at most for restTime.
	workTime = 5 * time.Millisecond
	restPart = 2
	restTime = 10 * time.Millisecond
	// lookRests bounds the rests, of restTime each, while a look is under way.
	lookRests = 10
)

// pacer makes the examination of a suspect rest. The hand runs before all that is not real-time, and such
// examinations may take many seconds: a third of each processor is left to others. While a look is under
// way nearly all is: a fence waits for the look.
//
// A thread of a lower priority would be no help. While it waits for the processor it keeps one of the
// few places that Go has for threads that run (GOMAXPROCS), and the fence waits for it. Nor would it get
// far on a busy host, where the stopped processes wait for it.
type pacer struct {
	t     *Tool
	x     *examination
	since time.Duration
}

// rest rests if it is time to.
func (p *pacer) rest() {
	worked := p.t.Clock.Steady() - p.since
	if worked < workTime {
		return
	}
	<-p.t.Clock.After(min(worked/restPart, restTime))
	for i := 0; i < lookRests && p.t.looks.looking.Load(); i++ {
		p.x.progress.Add(1) // it does not hang
		<-p.t.Clock.After(restTime)
	}
	p.since = p.t.Clock.Steady()
}

// resolve decides about a process that was examined: with respect to each dataset it is a holder,
// which stays stopped, or is cleared. It continues at once unless something keeps it stopped.
func (t *Tool) resolve(w *world, s suspect, p *process) {
	defer t.lockMarks()()
	elsewhere, err := t.marksOfAll(slices.Collect(maps.Keys(s.targets))...)
	if err != nil {
		t.suspects.fail(s)
		return
	}
	var clear []uuid.UUID
	stopped, kept := false, elsewhere.has(s.what())
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
		certain := mark{markProcess, s.what()}
		if fsys.ok && w.newHolding(target, fsys.Filesystem).by(p) {
			if marked && !slices.Contains(marks, certain) {
				marks = append(marks, certain)
			}
		} else {
			clear = append(clear, id)
		}
		kept = kept || slices.Contains(marks, certain)
		if marked {
			if err := t.setMarks(id, marks); err != nil {
				t.suspects.fail(s)
				return
			}
		}
	}
	t.suspects.settle(s, clear, t.Clock.Steady())
	if stopped && !kept {
		_ = signal(s.Process, unix.SIGCONT) // one that is gone, or is not ours to signal, stays as it is
	}
}
