// Package clock is where time comes from: the system's, or a fake one that a
// test moves. Logic never calls time.Now or time.Sleep.
package clock

import (
	"sync"
	"time"

	"github.com/droverhq/drover/internal/steps"
)

// Clock tells the time and wakes. Safe for concurrent use.
type Clock interface {
	Now() time.Time
	// After returns a channel that receives once d has passed; at once when d
	// is not positive.
	After(d time.Duration) <-chan time.Time
	// Steady is the time since a moment that stays the same while the host runs, even if the clock is set;
	// the sleep of the host counts. Leases go by it.
	Steady() time.Duration
}

// System is the clock of this machine.
type System struct{}

// Deadline is the moment in d, for the deadlines of connections: they are the kernel's, and come in time even
// if the clock is set.
func Deadline(d time.Duration) time.Time { return time.Now().Add(d) }

// Now is time.Now in UTC. The time between two of them depends on the clock, which may be set: measure
// durations with Steady.
func (System) Now() time.Time { return steps.Set(time.Now().UTC()) }

// After is time.After.
func (System) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Steady is Boottime: a host that slept through the end of a lease must not count the lease as its own, and
// the guard gets moments of that clock.
func (System) Steady() time.Duration { return Boottime() }

// Fake is a clock that only Advance and Set move.
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

// Now is the time that the fake clock shows.
func (f *Fake) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// After returns a channel that receives when Advance has moved the clock by d.
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

// Steady is how far Advance has moved the clock on.
func (f *Fake) Steady() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.steady
}

// Set sets the clock to t with no time passing, as a person or NTP does. It wakes
// nobody.
func (f *Fake) Set(t time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = t
}

// Advance moves the clock by d, which may be negative, and wakes whom it
// passes.
func (f *Fake) Advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steady += max(d, 0)
	f.now = f.now.Add(d)
	rest := f.waiters[:0]
	for _, w := range f.waiters {
		if w.at.After(f.now) {
			rest = append(rest, w)
			continue
		}
		w.ch <- f.now
	}
	f.waiters = rest
}
