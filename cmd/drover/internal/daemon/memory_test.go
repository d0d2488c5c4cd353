package daemon

import (
	"context"
	"runtime/debug"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/clock"
)

// pauses is a clock whose pauses the test ends.
type pauses struct {
	clock.System
	begun chan time.Duration
	end   chan time.Time
}

func (p pauses) After(d time.Duration) <-chan time.Time {
	p.begun <- d
	return p.end
}

// TestMemoryLimitFollowsVolumes: the limit grows with the number of volumes, ends with the context, and is not touched
// if an operator has set one.
func TestMemoryLimitFollowsVolumes(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	c := pauses{begun: make(chan time.Duration), end: make(chan time.Time)}
	ctx, stop := context.WithCancel(t.Context())
	ended, volumes := make(chan struct{}), 0
	go func() { defer close(ended); boundMemory(ctx, c, func() int { return volumes }) }()
	for _, n := range []int{100, 30_000} {
		if got, want := <-c.begun, memoryPause; got != want {
			t.Errorf("pause %s, want %s", got, want)
		}
		volumes = n
		c.end <- time.Time{}
	}
	<-c.begun
	if got, want := debug.SetMemoryLimit(-1), int64(40<<20+30_000*4<<10); got != want {
		t.Errorf("30000 volumes: limit %d, want %d", got, want)
	}
	stop()
	<-ended
	debug.SetMemoryLimit(before)
	t.Setenv("GOMEMLIMIT", "1GiB")
	boundMemory(t.Context(), c, func() int { t.Error("the volumes are counted"); return 0 })
	if got := debug.SetMemoryLimit(-1); got != before {
		t.Errorf("with GOMEMLIMIT set: limit %d, want %d", got, before)
	}
}
