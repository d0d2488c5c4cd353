package hand

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/droverhq/drover/internal/clock"
)

// examineAll reads the descriptors of all processes. Of those that have very many it reads as many as
// the time allows, the smaller ones first; all others are always read, however busy the host is.
//
// Large ones that were examined while they were stopped are last. All of them get their turn: the one
// whose examination is the longest ago is the first of them.
func (t *Tool) examineAll(w *world, within time.Duration) {
	atOnce(lookers, w.procs, func(p *process, _ func()) {
		if w.weigh(p); p.large() {
			p.clearedAt, p.cleared = t.suspects.clearedOf(w.datasets, p.Process)
		}
	})
	queue := slices.DeleteFunc(slices.Clone(w.procs), func(p *process) bool { return p.gone })
	slices.SortStableFunc(queue, func(a, b *process) int {
		return cmp.Or(falseFirst(a.large(), b.large()), falseFirst(a.cleared, b.cleared), cmp.Compare(a.clearedAt, b.clearedAt), a.size-b.size)
	})
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	atOnce(lookers, queue, func(p *process, release func()) {
		patience := context.Background()
		if p.large() {
			patience = ctx
		}
		t.examine(patience, w, p, release)
		if p.cleared && p.unexamined == nil {
			t.suspects.renew(w.datasets, p.Process, t.Clock.Steady())
		}
	})
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// atOnce calls do for each of a list, for n of them at once, and waits for all. A call may let another
// one begin before it ends.
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

// examineAgain is how long a large process that was examined while it was stopped is left alone by looks,
// and longer while other processes stand still until they are examined: these need the processor more.
const examineAgain = 5 * time.Second

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
	if ctx.Err() != nil || t.suspects.has(p.Process) || p.cleared && (t.suspects.waiting() || t.Clock.Steady()-p.clearedAt < examineAgain) {
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
