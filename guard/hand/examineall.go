package hand

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/droverhq/drover/internal/linux/inuse"
)

// examineAll examines all processes. It examines every process that is not large, however busy the host is. On large
// processes it spends at most the duration within, and examines those with less work first. A process that is not
// examined has an error in process.unexamined: it is a possible holder.
//
// The numbers of descriptors and threads are known before the examination. The number of mappings is not: the kernel
// shows the mappings only line by line. So a process also becomes large during its examination: when the examination
// exceeds smallWork, or when it exceeds fairWork and the budget of the look is used up.
//
// Cleared processes come last. A cleared process was stopped, examined, and found to hold none of the datasets. Among
// them, the process with the oldest examination comes first, so that each gets its turn.
func (t *Tool) examineAll(w *processTable, within time.Duration) {
	forEachConcurrently(maxExaminers, w.procs, func(p *process, _ func()) {
		w.estimate(p)
		p.clearedAt, p.cleared = t.suspects.clearedOf(w.datasets, p.Process)
	})
	queue := slices.DeleteFunc(slices.Clone(w.procs), func(p *process) bool { return p.gone })
	slices.SortStableFunc(queue, func(a, b *process) int { return a.size - b.size })
	budget := inuse.NewBudget(lookWork+len(queue)*fairWork, smallWork, fairWork)
	forEachConcurrently(maxExaminers, queue, func(p *process, release func()) {
		if p.isLarge() {
			return
		}
		t.examine(context.Background(), w, p, budget, release)
		switch {
		case errors.Is(p.unexamined, inuse.ErrBudget):
			p.unexamined, p.size = nil, p.size+smallWork
		case errors.Is(p.unexamined, inuse.ErrTooMuch):
			p.unexamined, p.size = nil, p.size+manyTimes*smallWork // after the other large ones
		}
	})
	queue = slices.DeleteFunc(queue, func(p *process) bool { return !p.isLarge() })
	slices.SortStableFunc(queue, func(a, b *process) int {
		return cmp.Or(cmp.Compare(a.clearedAt, b.clearedAt), a.size-b.size)
	})
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	forEachConcurrently(maxExaminers, queue, func(p *process, release func()) {
		t.examine(ctx, w, p, nil, release)
		if p.cleared && p.unexamined == nil {
			t.suspects.renew(w.datasets, p.Process, t.Clock.Steady())
		}
	})
}

const (
	// smallWork is the work, in units of package inuse, from which a process is large. That much work takes some
	// milliseconds. Few processes need it: databases, proxies, message brokers, and programs with thousands of
	// threads or mappings.
	smallWork = 1024
	// A look spends at most lookWork, plus fairWork for each process, on the processes that are not large. If
	// it spent up to smallWork on each of them, 1,000 processes just below smallWork would take seconds.
	lookWork = 50_000
	fairWork = 64
	// manyTimes is the assumed size, in multiples of smallWork, of a process that turned out to need more than
	// smallWork. It sorts such a process after most other large ones.
	manyTimes = 16
)

// forEachConcurrently calls do for each element of a list, with at most n calls at a time, and waits for all of them.
// A call of do can call release early, so that another call begins while it still runs.
func forEachConcurrently[T any](n int, list []T, do func(p T, release func())) {
	slots := make(chan struct{}, n)
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

// examineAgain is the minimum time between two examinations of a cleared process by looks.
const examineAgain = 5 * time.Second

// isLarge reports whether a process is examined only if there is time after the others. A large process that is not
// examined becomes a suspect, unless it is cleared. A cleared process counts as large, whatever its size. A spared
// process never counts as large.
func (p *process) isLarge() bool { return (p.size >= smallWork || p.cleared) && !p.spared }

// examine examines one process and stores the findings or the error in p. It calls release when the
// examination makes no progress. Processes that are never stopped have no budget.
//
// It does not examine the process, and stores inuse.ErrOutOfTime, if ctx has ended, if the process is a suspect, or
// if a cleared process was examined less than examineAgain ago. It does nothing if p has an error already.
func (t *Tool) examine(ctx context.Context, w *processTable, p *process, budget *inuse.Budget, release func()) {
	if p.unexamined != nil {
		return
	}
	if ctx.Err() != nil || t.suspects.has(p.Process) || p.cleared && t.Clock.Steady()-p.clearedAt < examineAgain {
		p.unexamined = inuse.ErrOutOfTime
		return
	}
	x := w.examinationOf(p)
	if !p.spared {
		x.Budget = budget
	}
	found, err := t.examiner.Examine(ctx, t.Clock, x, release)
	if p.unexamined = err; err == nil {
		p.found = found
	}
	p.hung = errors.Is(err, inuse.ErrHung)
}

func (w *processTable) examinationOf(p *process) *inuse.Examination {
	return &inuse.Examination{Scan: w.scan, PID: p.PID, Start: p.Start}
}
