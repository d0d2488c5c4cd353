// Package clock provides the time. Code with logic (the agent, control, the guard, the plugin, the backends and the
// commands) gets a [Clock] from its caller, and does not call time.Now or time.Sleep: tests pass another one (package
// fakes). [System] has no state. An [Alarm] has a timer of the kernel and a goroutine that reads it. The time since the
// boot, the ID of the boot and the alarm are in boot.go.
package clock

import (
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
