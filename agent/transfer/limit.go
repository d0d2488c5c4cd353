package transfer

import (
	"context"
	"sync"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// Limiter holds all transfers of a host to so many bytes a second. A nil one holds
// nothing back. Safe for concurrent use.
type Limiter struct {
	clock clock.Clock

	mu     sync.Mutex
	rate   dataset.Size  // a second; 0: no limit
	credit float64       // bytes that may go now; less than 0: that have gone early
	last   time.Duration // of the clock, when the credit was counted
}

// NewLimiter returns a limiter of so many bytes a second, 0 for no limit.
func NewLimiter(c clock.Clock, rate dataset.Size) *Limiter {
	return &Limiter{clock: c, rate: rate, last: c.Steady()}
}

// Set gives another rate; 0: no limit.
func (l *Limiter) Set(rate dataset.Size) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate, l.credit, l.last = rate, 0, l.clock.Steady()
}

// wait returns when n bytes more may go, or with ctx.
func (l *Limiter) wait(ctx context.Context, n int) error {
	if l == nil {
		return nil
	}
	delay := l.reserve(n)
	if delay <= 0 {
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-l.clock.After(delay):
		return nil
	}
}

// piece is how many of n bytes are best asked for at once: what goes in a tenth of a
// second, so that nobody takes a slow limit for a peer that is away.
func (l *Limiter) piece(n int) int {
	if l == nil {
		return n
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate <= 0 {
		return n
	}
	return min(n, max(int(l.rate/10), 1<<10))
}

// reserve takes n bytes from the credit, which can go below zero: whoever comes next waits
// for that. What was not used is kept for a tenth of a second.
func (l *Limiter) reserve(n int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate <= 0 {
		return 0
	}
	now := l.clock.Steady()
	rate := float64(l.rate)
	l.credit = min(l.credit+rate*(now-l.last).Seconds(), rate/10)
	l.last = now
	l.credit -= float64(n)
	if l.credit >= 0 {
		return 0
	}
	return time.Duration(-l.credit / rate * float64(time.Second))
}
