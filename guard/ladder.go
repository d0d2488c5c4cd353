package guard

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/guard/hand"
	"github.com/droverhq/drover/internal/steps"
)

// rung is one act of a ladder.
type rung struct {
	act Act
	do  func(context.Context, hand.Target, time.Duration) hand.Outcome
}

// ladder returns the rungs that can be tried for an entry before the host is rebooted.
func (g *Guard) ladder(e Entry) []rung {
	var all []rung
	if e.Own {
		all = append(all, rung{ActFreeze, g.Hand.Freeze})
	}
	all = append(all, rung{ActStop, g.Hand.Stop})
	if e.Policy != PolicyFreeze {
		all = append(all, rung{ActKill, g.Hand.Kill})
	}
	return all
}

const (
	// lookCost is the time that one look takes for each process of a busy host: see BenchmarkLook in package hand.
	lookCost = 200 * time.Microsecond
	// looksPerRung is how many looks a rung needs: one that finds the holders, and one that finds
	// them stopped.
	looksPerRung = 2
)

// rungTime is the time that each rung has: Options.Step, or more on a host with many processes. Half of Options.Step is
// for large processes and for stopping the holders. The other half is for the looks at all processes. If these take
// longer than that half, rungTime grows by the difference.
func (g *Guard) rungTime() time.Duration {
	looks := time.Duration(g.Processes()) * lookCost * looksPerRung
	return max(g.Step, g.Step/2+looks)
}

// manyProcesses is assumed when the processes cannot be counted: the default of pid_max.
const manyProcesses = 32768

// countProcesses returns how many processes this host has.
func countProcesses() int {
	dir, err := os.Open("/proc")
	if err != nil {
		return manyProcesses
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return manyProcesses
	}
	n := 0
	for _, name := range names {
		if name[0] >= '0' && name[0] <= '9' {
			n++
		}
	}
	return n
}

// bound returns how long the ladder of an entry takes if each rung has the given time.
func (g *Guard) bound(e Entry, rung time.Duration) time.Duration {
	d := time.Duration(len(g.ladder(e))) * rung
	if e.Policy == PolicyWatchdog {
		d += g.watchdog.timeout
	}
	return d
}

// startFence starts to fence an entry. The lock is held.
func (g *Guard) startFence(e *entry) {
	if steps.Off("guard") {
		e.Deadline += MaxAhead
		return
	}
	e.State, e.Steps, e.Breaches = StateFencing, nil, 0
	g.save(e)
	if g.ctx != nil { // before Run is called there is no context: Run then starts the ladder
		g.startLadder(e)
	}
	g.log(e.Entry).Error("deadline has passed: fencing") // last, because the output of the log may block
}

func (g *Guard) log(e Entry) *logrus.Entry {
	return g.Log.WithFields(logrus.Fields{"volume": e.Volume, "dataset": e.Dataset, "epoch": e.Epoch})
}

// startLadder starts the ladder of an entry. The lock is held.
func (g *Guard) startLadder(e *entry) {
	ctx, end := context.WithCancel(g.ctx)
	e.end, e.ended = end, make(chan struct{})
	ended, snapshot := e.ended, e.Entry
	g.wg.Go(func() {
		defer close(ended)
		defer end()
		g.fence(ctx, e, snapshot)
	})
}

// stopLadder cancels the ladder of an entry and waits until it has ended. The caller does not hold the lock, and the
// entry is busy. For an armed entry, the deadline may start another ladder at any time.
func (g *Guard) stopLadder(e *entry) {
	g.mu.Lock()
	end, ended := e.end, e.ended
	e.end, e.ended = nil, nil
	g.mu.Unlock()
	if end != nil {
		end()
		<-ended
	}
}

// fence climbs the ladder until no process can write. Then it checks the fence regularly, until ctx ends.
func (g *Guard) fence(ctx context.Context, e *entry, at Entry) {
	ladder := g.ladder(at)
	by := -1
	if at.State == StateFenced && at.Fence != nil {
		by = slices.IndexFunc(ladder, func(r rung) bool { return r.act == at.Fence.By })
	}
	for ctx.Err() == nil {
		if by < 0 {
			if by = g.climbOnce(ctx, e, at, ladder); by < 0 {
				pause(ctx, g.Clock, g.Log, g.RetryPause)
			}
			continue
		}
		pause(ctx, g.Clock, g.Log, g.Recheck)
		if ctx.Err() == nil && !g.recheck(ctx, e, at, ladder[by]) {
			by = -1
		}
	}
}

// climbOnce climbs the ladder once. It returns the index of the rung that completed the fence, or -1 if none did.
func (g *Guard) climbOnce(ctx context.Context, e *entry, at Entry, ladder []rung) int {
	contained := false
	for i, r := range ladder {
		if contained && r.act == ActKill {
			i, r = i-1, ladder[i-1] // every holder is harmless: do not kill, stop again and examine more processes
		}
		steps.At("guard.fencing")
		began := g.Clock.Boottime()
		o := r.do(ctx, g.withPresentAgent(at.Target), g.rungTime())
		if ctx.Err() != nil {
			return -1
		}
		steps.At("guard.fenced")
		g.recordOutcome(e, r.act, began, o)
		if o.Done {
			return i
		}
		contained = o.Contained
	}
	if at.Policy == PolicyWatchdog {
		g.reboot(e)
	}
	return -1
}

// setAgent records which process is this host's agent.
func (g *Guard) setAgent(agent hand.Process) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.agent = agent
}

// withPresentAgent returns a target with the present agent instead of the agent that registered it. The agent may have
// been restarted, and a restarted agent does not register fenced datasets again.
func (g *Guard) withPresentAgent(t hand.Target) hand.Target {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.agent.PID != 0 {
		t.Agent = g.agent
	}
	return t
}

// recordOutcome records the result of a rung.
func (g *Guard) recordOutcome(e *entry, act Act, began time.Duration, o hand.Outcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e.add(Step{Act: act, Began: began, Ended: g.Clock.Boottime(), Done: o.Done, Note: o.Note, Left: o.Left})
	log := g.log(e.Entry).WithFields(logrus.Fields{"act": act, "note": o.Note})
	if !o.Done {
		g.save(e)
		log.WithField("left", o.Left).Error("not fenced yet")
		return
	}
	overrun := max(o.At-e.Deadline, 0)
	e.State = StateFenced
	e.Fence = &Fence{Epoch: e.Epoch, At: o.At, By: act, Overrun: overrun, Late: max(overrun-e.Bound, 0)}
	g.save(e)
	log.WithField("overrun", overrun).Warn("fenced")
}

// recheck checks whether a complete fence still holds, and repairs it. It returns false if the repair failed.
func (g *Guard) recheck(ctx context.Context, e *entry, at Entry, r rung) bool {
	began := g.Clock.Boottime()
	o := r.do(ctx, g.withPresentAgent(at.Target), g.rungTime())
	if ctx.Err() != nil || o.Done && !o.Changed {
		return true
	}
	o.Note = cmp.Or(o.Note, "the fence was undone, or a process began to use the volume")
	g.mu.Lock()
	defer g.mu.Unlock()
	e.Breaches++
	e.add(Step{Act: r.act, Began: began, Ended: g.Clock.Boottime(), Done: o.Done, Note: o.Note, Left: o.Left})
	if !o.Done {
		e.State = StateFencing
	}
	g.save(e)
	g.log(e.Entry).WithFields(logrus.Fields{"act": r.act, "mended": o.Done}).Error("the fence was broken")
	return o.Done
}

// reboot stops feeding the watchdog, so that the device reboots the host.
func (g *Guard) reboot(e *entry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e.busy {
		return // a request is about to thaw or supersede it
	}
	now := g.Clock.Boottime()
	s := Step{Act: ActReboot, Began: now, Ended: now, Note: "the watchdog device is missing"}
	if g.watchdog.device != nil {
		s.Note = fmt.Sprintf("the watchdog is no longer fed: it reboots the host within %v", g.watchdog.timeout)
		g.watchdog.feedingStopped = true // so that it reboots the host
	}
	e.add(s)
	g.save(e)
	g.log(e.Entry).WithField("note", s.Note).Error("all other fences failed: rebooting the host")
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, clock Clock, log logrus.FieldLogger, d time.Duration) {
	alarm, err := clock.NewAlarm()
	if err == nil {
		defer func() { _ = alarm.Close() }() // the alarm is only a timer
		err = alarm.Set(clock.Boottime() + d)
	}
	if err != nil { // without a file descriptor for the timer, the ladder continues without pauses
		log.WithError(err).Error("cannot set a timer")
		return
	}
	select {
	case <-alarm.C():
	case <-ctx.Done():
	}
}
