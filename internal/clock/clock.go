// Package clock provides the time: that of the system, or a fake one that a test controls. Code with logic (the agent,
// control, the guard, the plugin, the backends and the commands) gets a [Clock] from its caller, and does not call
// time.Now or time.Sleep. [System] has no state. A [Fake] is protected by a mutex. An [Alarm] has a timer of the kernel
// and a goroutine that reads it. The interface and its two implementations are in clock.go. The time since the boot,
// the ID of the boot and the alarm are in boot.go.
package clock

import (
	"sync"
	"time"

	"github.com/droverhq/drover/internal/steps"
)

// Clock provides the time and timers. Safe for concurrent use.
type Clock interface {
	Now() time.Time
	// After returns a channel that receives a value once d has passed, or at once if d is not positive.
	After(d time.Duration) <-chan time.Time
	// Steady returns the time since a fixed moment. It continues to grow while the host sleeps, and does not change
	// when the clock is set. Leases depend on it.
	Steady() time.Duration
}

// System is the clock of this machine.
type System struct{}

// Deadline returns the time after d, for the deadlines of connections. The result has a monotonic reading (package
// time), so setting the clock does not move the deadline.
func Deadline(d time.Duration) time.Time { return time.Now().Add(d) }

// Now is time.Now in UTC. The clock can be set at any time, so measure durations with Steady. In a build with the tag
// "steps", a test can shift the time (package steps).
func (System) Now() time.Time { return steps.AdjustTime(time.Now().UTC()) }

// After is time.After.
func (System) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Steady returns Boottime, which continues while the host sleeps. Otherwise a host that slept beyond the end of a lease
// would treat the lease as valid. The guard uses the same clock.
func (System) Steady() time.Duration { return Boottime() }

// Fake is a clock that changes only with Advance and Set.
type Fake struct {
	mu      sync.Mutex
	now     time.Time
	steady  time.Duration
	waiters []waiter
}

type waiter struct {
	at time.Time
	ch chan time.Time
}

// NewFake returns a fake clock whose time is now.
func NewFake(now time.Time) *Fake { return &Fake{now: now} }

// Now returns the time of the fake clock.
func (f *Fake) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// After returns a channel that receives a value when Advance has moved the clock by d. Set before that makes the timer
// earlier or later, unlike the timers of System.
func (f *Fake) After(d time.Duration) <-chan time.Time {
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
func (f *Fake) Steady() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.steady
}

// Set sets the clock to t without any time passing, as a person or NTP does. No timer fires.
func (f *Fake) Set(t time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = t
}

// Advance moves the clock by d, which may be negative, and fires the timers that are due.
func (f *Fake) Advance(d time.Duration) {
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
