package mounting

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/droverhq/drover/internal/clock"
)

// Flushes tracks the running flushes of this agent. A flush has a file of its mount open, so the mount cannot be
// unmounted. Its methods are safe for concurrent use.
type Flushes struct {
	mu      sync.Mutex
	running map[chan struct{}]string // mount points; a channel is closed when its flush ends
}

// Begin records that a flush has a mount open, until the caller calls end.
func (f *Flushes) Begin(path string) (end func()) {
	over := make(chan struct{})
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running == nil {
		f.running = map[chan struct{}]string{}
	}
	f.running[over] = path
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.running, over)
		close(over)
	}
}

// Count returns the number of running flushes.
func (f *Flushes) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.running)
}

// Wait waits until no flush has a mount open, until limit has passed, or until ctx ends.
func (f *Flushes) Wait(ctx context.Context, c clock.Clock, path string, limit time.Duration) {
	f.mu.Lock()
	running := maps.Clone(f.running)
	f.mu.Unlock()
	maps.DeleteFunc(running, func(_ chan struct{}, of string) bool { return of != path })
	if len(running) == 0 {
		return
	}
	late := c.After(limit)
	for over := range running {
		select {
		case <-over:
		case <-late:
			return
		case <-ctx.Done():
			return
		}
	}
}
