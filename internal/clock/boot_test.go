package clock_test

import (
	"testing"
	"time"

	"github.com/droverhq/drover/internal/clock"
)

// The alarm rings at the moment that it is set to and not before, for one that has passed
// at once, and not for one that was taken back.
func TestAlarm(t *testing.T) {
	a, err := clock.NewAlarm()
	if err != nil {
		t.Fatal(err)
	}
	set := func(at time.Duration) {
		t.Helper()
		if err := a.Set(at); err != nil {
			t.Fatal(err)
		}
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
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Set(at); err == nil {
		t.Error("a closed alarm was set")
	}
}

func TestBootID(t *testing.T) {
	one, err := clock.BootID()
	if err != nil {
		t.Fatal(err)
	}
	if two, _ := clock.BootID(); two != one || len(one) != 36 {
		t.Errorf("%q and %q", one, two)
	}
}

// Leases go by Steady and the guard's deadlines by Boottime: they are one clock.
func TestSteadyIsBoottime(t *testing.T) {
	before := clock.Boottime()
	at := clock.System{}.Steady()
	if after := clock.Boottime(); at < before || at > after {
		t.Errorf("%v is not between %v and %v", at, before, after)
	}
}
