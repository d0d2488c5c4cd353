package hand

import (
	"testing"
	"time"

	"github.com/droverhq/drover/internal/clock"
)

// A process whose examination hangs gets time to stop before it is killed, and is not killed if it only
// waits for a processor.
func TestHungProcessMayStop(t *testing.T) {
	var s suspects
	p := &process{Process: Process{PID: 4711, Start: 1}, hung: true}
	now := 10 * time.Second
	if s.isStuck(p, now) {
		t.Error("it was not stopped before")
	}
	s.add(Target{}, p.Process, now)
	if s.isStuck(p, now+haltTime-1) || !s.isStuck(p, now+haltTime) {
		t.Errorf("it is stuck: %t after less than %v, %t then", s.isStuck(p, now+haltTime-1), haltTime, s.isStuck(p, now+haltTime))
	}
	if p.hung = false; s.isStuck(p, now+haltTime) {
		t.Error("a process that could not be examined in time is killed")
	}
	running := sleeper(t)
	if cannotStop(running) {
		t.Error("a process that can be stopped counts as one that cannot")
	}
}

// A fence is contained if all holders are stopped, and all other processes could be examined later.
func TestContained(t *testing.T) {
	tool := New(Options{Clock: clock.System{}})
	holder, other := Process{PID: 1 << 30, Start: 1}, &process{Process: Process{PID: 1<<30 + 1, Start: 1}}
	r := rule{suspectHarmless: func(*processTable, *process) bool { return false }}
	for name, c := range map[string]struct {
		harmless, stuck bool
		suspects        []*process
		want            bool
	}{
		"a holder that runs":                {false, false, []*process{other}, false},
		"a process that was not examined":   {true, false, []*process{other}, true},
		"a process that cannot be examined": {true, true, []*process{other}, false},
		"nobody":                            {true, false, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			r.holderHarmless = func(*processTable, Process) bool { return c.harmless }
			tool.suspects.queue = map[processKey]*suspect{other.key(): {Process: other.Process, failed: c.stuck, queued: -haltTime}}
			if got := tool.contained(nil, r, []Process{holder}, c.suspects); got != c.want {
				t.Errorf("contained: %t", got)
			}
		})
	}
}

// A process that a debugger has stopped can continue at any time.
func TestTracedProcessResists(t *testing.T) {
	p := sleeper(t)
	debugged(t, p)
	if !cannotStop(p) || isHalted(p) {
		t.Errorf("it cannot stop: %t, it is stopped: %t", cannotStop(p), isHalted(p))
	}
}
