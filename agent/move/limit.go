package move

import (
	"context"
	"sync"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// Limiter limits all transfers of a host to a number of bytes per second. A nil Limiter does not limit. Safe for
// concurrent use.
type Limiter struct {
	clock clock.Clock

	mu     sync.Mutex
	rate   dataset.Size  // per second; if 0, there is no limit
	credit float64       // bytes that may be sent now; negative if bytes were sent early
	last   time.Duration // when the credit was computed, by the clock
}

// NewLimiter returns a limiter of rate bytes per second. If rate is 0, there is no limit.
func NewLimiter(c clock.Clock, rate dataset.Size) *Limiter {
	return &Limiter{clock: c, rate: rate, last: c.Steady()}
}

// Set changes the rate. If rate is 0, there is no limit.
func (l *Limiter) Set(rate dataset.Size) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate, l.credit, l.last = rate, 0, l.clock.Steady()
}

// wait returns when n more bytes may be sent, or when ctx ends.
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

// piece returns how many of n bytes to transfer at once: no more than may be sent in a tenth of a second. With larger
// pieces, the pauses of a low limit would look like a peer that does not answer.
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

// reserve takes n bytes from the credit. The credit can become negative. The next caller waits until it is positive
// again. Unused credit is kept for a tenth of a second.
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
