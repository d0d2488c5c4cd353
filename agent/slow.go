package agent

import (
	"context"
	"time"
)

// slow calls fn once when the job has run for d, unless stop is called first.
func (a *Agent) slow(ctx context.Context, d time.Duration, fn func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	a.wg.Add(1)
	done := make(chan struct{})
	go func() {
		defer a.wg.Done()
		defer close(done)
		select {
		case <-a.Clock.After(d):
			fn(ctx)
		case <-ctx.Done():
		}
	}()
	return func() { cancel(); <-done }
}
