package hand

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/droverhq/drover/internal/inuse"
)

// examineAll reads the descriptors of all processes. Processes that are not large are always examined,
// however busy the host is. Large processes are examined as long as within allows, the ones with less work
// first.
//
// The number of descriptors and threads is known before, the number of mappings is not: the kernel shows it
// only line by line. So a process that turns out to be more work than smallWork is large, too.
//
// Large processes that were cleared, which means that they were examined while they were stopped, come
// last. Among these, the one whose last examination is the oldest is first, so that each gets its turn.
func (t *Tool) examineAll(w *world, within time.Duration) {
	atOnce(lookers, w.procs, func(p *process, _ func()) {
		w.weigh(p)
		p.clearedAt, p.cleared = t.suspects.clearedOf(w.datasets, p.Process)
	})
	queue := slices.DeleteFunc(slices.Clone(w.procs), func(p *process) bool { return p.gone })
	slices.SortStableFunc(queue, func(a, b *process) int { return a.size - b.size })
	budget := inuse.NewBudget(lookWork+len(queue)*fairWork, smallWork, fairWork)
	atOnce(lookers, queue, func(p *process, release func()) {
		if p.large() {
			return
		}
		t.examine(context.Background(), w, p, budget, release)
		switch {
		case errors.Is(p.unexamined, inuse.ErrBudget):
			p.unexamined, p.size = nil, p.size+smallWork
		case errors.Is(p.unexamined, inuse.ErrTooMuch):
			p.unexamined, p.size = nil, p.size+manyTimes*smallWork // after the others
		}
	})
	queue = slices.DeleteFunc(queue, func(p *process) bool { return !p.large() })
	slices.SortStableFunc(queue, func(a, b *process) int {
		return cmp.Or(falseFirst(a.cleared, b.cleared), cmp.Compare(a.clearedAt, b.clearedAt), a.size-b.size)
	})
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	atOnce(lookers, queue, func(p *process, release func()) {
		t.examine(ctx, w, p, nil, release)
		if p.cleared && p.unexamined == nil {
			t.suspects.renew(w.datasets, p.Process, t.Clock.Steady())
		}
	})
}

const (
	// smallWork is the work from which a process is large. It takes some milliseconds. Few processes are
	// so much: databases, proxies, message brokers, and programs with thousands of threads or mappings.
	smallWork = 1024
	// A look spends lookWork, and fairWork for each process, on all processes that are not large. This is
	// less than smallWork for each: otherwise 1,000 processes just below that would take seconds.
	lookWork = 50_000
	fairWork = 64
	// manyTimes is how large a process is assumed to be that has more mappings than expected, in smallWork.
	manyTimes = 16
)

// falseFirst compares two values for a sort that puts false before true.
func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// atOnce calls do for each element of a list, n at a time, and waits for all calls. A call can call release
// so that another one begins before it ends.
func atOnce[T any](n int, list []T, do func(p T, release func())) {
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

// examineAgain is the minimum time between two examinations of a cleared process by looks. While other
// processes are stopped for their examination, looks do not examine cleared processes at all: the
// processor time is needed for the stopped ones.
const examineAgain = 5 * time.Second

// large reports whether a process may be stopped before it is examined, because that takes long. One that
// was stopped for it, and cleared, counts as large as well.
func (p *process) large() bool { return (p.size >= smallWork || p.cleared) && !p.spared }

// examine examines one process and stores the findings, or the error, in p. When the examination makes no
// progress, examine calls release, so that another one can begin. Processes that are never stopped have no
// budget.
func (t *Tool) examine(ctx context.Context, w *world, p *process, budget *inuse.Budget, release func()) {
	if p.unexamined != nil {
		return
	}
	if ctx.Err() != nil || t.suspects.has(p.Process) || p.cleared && (t.suspects.waiting() || t.Clock.Steady()-p.clearedAt < examineAgain) {
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

func (w *world) examinationOf(p *process) *inuse.Examination {
	return &inuse.Examination{Scan: w.scan, PID: p.PID, Start: p.Start}
}
