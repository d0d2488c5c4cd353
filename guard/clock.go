package guard

import (
	"time"

	"github.com/droverhq/drover/internal/clock"
)

// Clock measures deadlines: CLOCK_BOOTTIME, or a fake in tests.
type Clock interface {
	// Boottime is clock.Boottime.
	Boottime() time.Duration
	// NewAlarm is clock.NewAlarm.
	NewAlarm() (Alarm, error)
}

// Alarm is clock.Alarm.
type Alarm interface {
	C() <-chan struct{}
	Set(at time.Duration) error
	Close() error
}

type systemClock struct{}

func (systemClock) Boottime() time.Duration  { return clock.Boottime() }
func (systemClock) NewAlarm() (Alarm, error) { return clock.NewAlarm() }
