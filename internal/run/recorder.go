package run

import (
	"context"
	"errors"
	"sync"
)

// Func is a function that is a Runner, for fakes.
type Func func(ctx context.Context, c Command) (Result, error)

// Run calls f.
func (f Func) Run(ctx context.Context, c Command) (Result, error) { return f(ctx, c) }

// Recorder is a Runner for tests. It records every command and passes it to Next. If Next is nil, every command fails,
// so a test can assert that a call starts no command. Safe for concurrent use.
type Recorder struct {
	Next Runner

	mu    sync.Mutex
	calls []Command
}

// Run records c and passes it on.
func (r *Recorder) Run(ctx context.Context, c Command) (Result, error) {
	r.mu.Lock()
	r.calls = append(r.calls, c)
	r.mu.Unlock()
	if r.Next == nil {
		return Result{}, c.fail(-1, nil, errors.New("no command may be run here"))
	}
	return r.Next.Run(ctx, c)
}

// Calls returns the commands so far, oldest first.
func (r *Recorder) Calls() []Command {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Command(nil), r.calls...)
}

// Count returns the number of commands so far.
func (r *Recorder) Count() int { return len(r.Calls()) }
