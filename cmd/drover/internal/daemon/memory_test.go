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
	go func() { defer close(ended); boundMemory(ctx, c, func() int { return volumes }, func() {}) }()
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
	ctx, stop = context.WithCancel(t.Context())
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		boundMemory(ctx, c, func() int { t.Error("the volumes are counted"); return 0 }, func() {})
	}()
	<-c.begun
	stop()
	<-ended
	if got := debug.SetMemoryLimit(-1); got != before {
		t.Errorf("with GOMEMLIMIT set: limit %d, want %d", got, before)
	}
}

// TestMemoryIsReleasedOnceAfterWork: memory is released when the daemon is quiet after work, and not again until it has
// worked again and a minute has passed.
func TestMemoryIsReleasedOnceAfterWork(t *testing.T) {
	const mib = 1 << 20
	var q quietness
	for i, step := range []struct {
		allocated uint64
		seconds   time.Duration
		released  bool
	}{
		{100 * mib, 0, false},             // the start of the daemon
		{100*mib + 1000, 2, true},         // quiet
		{100*mib + 2000, 4, false},        // still quiet: there is no new garbage
		{103 * mib, 6, false},             // a little work
		{103*mib + 1000, 8, false},        // too little to release
		{140 * mib, 10, false},            // a long list
		{140*mib + quietBytes, 12, false}, // quiet again, but the last release was ten seconds ago
		{140*mib + quietBytes, 61, false}, // a minute has not passed
		{140*mib + quietBytes, 62, true},  // a minute has passed
		{149*mib + quietBytes, 64, false}, // work
		{149*mib + quietBytes, 200, true}, // quiet again
	} {
		if got := q.becomesQuiet(step.allocated, step.seconds*time.Second); got != step.released {
			t.Errorf("step %d, %d bytes allocated: released %t, want %t", i, step.allocated, got, step.released)
		}
	}
}
