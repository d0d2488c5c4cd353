// Package fakes has the clock and the runners of commands that tests pass in place of those of the system.
package fakes

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/droverhq/drover/internal/run"
)

// Clock is a clock.Clock that changes only with Advance and Set.
type Clock struct {
	mu      sync.Mutex
	now     time.Time
	steady  time.Duration
	waiters []waiter
}

type waiter struct {
	at time.Time
	ch chan time.Time
}

// NewClock returns a fake clock whose time is now.
func NewClock(now time.Time) *Clock { return &Clock{now: now} }

// Now returns the time of the fake clock.
func (f *Clock) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// After returns a channel that receives a value when Advance has moved the clock by d. Set before that makes the timer
// earlier or later, unlike the timers of System.
func (f *Clock) After(d time.Duration) <-chan time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	ch := make(chan time.Time, 1)
	if d <= 0 {
		ch <- f.now
		return ch
	}
	f.waiters = append(f.waiters, waiter{f.now.Add(d), ch})
	return ch
}

// Steady returns the sum of all calls of Advance. Negative ones do not count.
func (f *Clock) Steady() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.steady
}

// Set sets the clock to t without any time passing, as a person or NTP does. No timer fires.
func (f *Clock) Set(t time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = t
}

// Advance moves the clock by d, which may be negative, and fires the timers that are due.
func (f *Clock) Advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steady += max(d, 0)
	f.now = f.now.Add(d)
	pending := f.waiters[:0]
	for _, w := range f.waiters {
		if w.at.After(f.now) {
			pending = append(pending, w)
			continue
		}
		w.ch <- f.now
	}
	f.waiters = pending
}

// Run is a function that is a run.Runner, for fakes.
type Run func(ctx context.Context, c run.Command) (run.Result, error)

// Run calls f.
func (f Run) Run(ctx context.Context, c run.Command) (run.Result, error) { return f(ctx, c) }

// Recorder is a run.Runner for tests. It records every command and passes it to Next. If Next is nil, every command
// fails, so a test can assert that a call starts no command. Safe for concurrent use.
type Recorder struct {
	Next run.Runner

	mu    sync.Mutex
	calls []run.Command
}

// Run records c and passes it on.
func (r *Recorder) Run(ctx context.Context, c run.Command) (run.Result, error) {
	r.mu.Lock()
	r.calls = append(r.calls, c)
	r.mu.Unlock()
	if r.Next == nil {
		return run.Result{}, &run.Error{
			Cmd: c.Name, Args: c.Args, ExitCode: -1, Err: errors.New("no command may be run here"),
		}
	}
	return r.Next.Run(ctx, c)
}

// Calls returns the commands so far, oldest first.
func (r *Recorder) Calls() []run.Command {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]run.Command(nil), r.calls...)
}

// Count returns the number of commands so far.
func (r *Recorder) Count() int { return len(r.Calls()) }
