package clock_test

import (
	"testing"
	"time"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/require"
)

// The alarm rings at the time that was set, and not before. For a time that has passed it rings at once. It does not
// ring after it was turned off.
func TestAlarm(t *testing.T) {
	a, err := clock.NewAlarm()
	require.NoError(t, err)
	set := func(at time.Duration) {
		t.Helper()
		require.NoError(t, a.Set(at))
	}
	set(clock.Boottime() - time.Second)
	<-a.C()
	set(clock.Boottime() + time.Hour)
	set(0)
	at := clock.Boottime() + 20*time.Millisecond
	set(at)
	<-a.C()
	if now := clock.Boottime(); now < at {
		t.Errorf("it rang %v too early", at-now)
	}
	require.NoError(t, a.Close())
	if err := a.Set(at); err == nil {
		t.Error("a closed alarm was set")
	}
}

func TestBootID(t *testing.T) {
	one, err := clock.BootID()
	require.NoError(t, err)
	if two, _ := clock.BootID(); two != one || len(one) != 36 {
		t.Errorf("%q and %q", one, two)
	}
}

// Leases use Steady, and the deadlines of the guard use Boottime. Both must be the same clock.
func TestSteadyIsBoottime(t *testing.T) {
	before := clock.Boottime()
	at := clock.System{}.Steady()
	if after := clock.Boottime(); at < before || at > after {
		t.Errorf("%v is not between %v and %v", at, before, after)
	}
}
