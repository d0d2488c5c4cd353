package agent

import (
	"context"
	"time"

	"github.com/droverhq/drover/dataset"
)

// apart returns a copy of an operation whose records are its own.
func apart(op dataset.Operation) dataset.Operation {
	if op.Dataset != nil {
		d := *op.Dataset
		op.Dataset = &d
	}
	if op.Snapshot != nil {
		s := *op.Snapshot
		op.Snapshot = &s
	}
	return op
}

// slow calls fn once the job has run for d, unless stop is called first.
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
