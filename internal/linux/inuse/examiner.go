package inuse

import (
	"context"
	"sync"
	"time"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/process"
)

// Examiner performs examinations that the kernel may never finish. Of each process, it runs at most one examination at
// a time. The zero value is ready for use. Safe for concurrent use.
type Examiner struct {
	mu sync.Mutex
	// running contains the processes whose examination is under way or hangs.
	running map[process.Identity]bool
}

// Examine performs an examination, and calls idle each time that the examination makes no progress for
// idleTime. When ctx ends, it asks the examination to stop.
//
// It fails with ErrOutOfTime if the examination stopped because ctx ended, and with ErrHung if the
// examination makes no progress for hungTime. It also fails with ErrHung if an earlier examination of the
// same process still hangs, because each of them occupies a thread. With a Budget, it can fail with
// ErrTooMuch or ErrBudget. Any other error means that the process cannot be examined. If the process has
// ended, the error is nil.
func (r *Examiner) Examine(ctx context.Context, c clock.Clock, x *Examination, idle func()) (Findings, error) {
	id := process.Identity{PID: x.PID, Start: x.Start}
	if !r.begin(id) {
		return Findings{}, ErrHung
	}
	done := make(chan result, 1)
	go func() {
		f, err := x.run()
		r.end(id)
		done <- result{f, err}
	}()
	if f, ok := await(ctx, c, x, done, idle); ok {
		return f.Findings, f.err
	}
	return Findings{}, ErrHung
}

// begin records the start of an examination. It returns false if another one of the same process has not ended.
func (r *Examiner) begin(id process.Identity) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running[id] {
		return false
	}
	if r.running == nil {
		r.running = map[process.Identity]bool{}
	}
	r.running[id] = true
	return true
}

func (r *Examiner) end(id process.Identity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, id)
}

// result is the result of an examination.
type result struct {
	Findings
	err error
}

const (
	// If an examination makes no progress for idleTime, another one may begin. If it makes none for
	// hungTime, it counts as hung. An example is a thread of the examined process that waits in the
	// kernel while it holds the lock of the memory map.
	idleTime = 20 * time.Millisecond
	hungTime = 500 * time.Millisecond
)

// await waits for the result of an examination. When ctx ends, it asks the examination to stop. It calls
// idle when the examination makes no progress. It returns false if the examination hangs.
func await(ctx context.Context, c clock.Clock, x *Examination, done <-chan result, idle func()) (result, bool) {
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
