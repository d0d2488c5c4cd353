package hand

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/clock"
)

const (
	// stopPoll is the interval at which waitFor checks whether processes have stopped.
	stopPoll = 10 * time.Millisecond
	// settlePauses is the number of these checks before the next look at all processes.
	settlePauses = 20
)

// Stop stops the holders of a dataset without ending them. If a control group contains only holders, Stop freezes the
// group. It sends SIGSTOP to every other holder. It also makes the host's mount read-only, so that no file can be
// opened for writing through it. The mount cannot be made read-only while a file is open for writing. Stop does not
// report that as an error.
//
// Holders that are found by their mount namespace are stopped at once, before descriptors are read. A
// process that could not be examined in time is stopped too. It continues once it was shown not to hold
// the dataset. If the agent is a holder, it is killed: see Target.Agent.
//
// The act is done when a look at all processes finds no running holder, and no running process that could
// not be examined. Errors are reported in Outcome.Note.
func (t *Tool) Stop(ctx context.Context, target Target) Outcome {
	return t.repeat(ctx, target, rule{
		holderHarmless:  stoppedOrFrozen,
		suspectHarmless: func(w *processTable, p *process) bool { return stoppedOrFrozen(w, p.Process) },
		act:             t.stop,
	})
}

// rule defines one kind of act: what it does to holders and suspects, and when the act is done.
type rule struct {
	// holderHarmless reports whether nothing more must be done to a holder.
	holderHarmless func(*processTable, Process) bool
	// suspectHarmless reports the same for a process that could not be examined.
	suspectHarmless func(*processTable, *process) bool
	// act acts on the holders, and reports whether it did anything.
	act func(w *processTable, target Target, holders []Process) (acted bool, err error)
	// hung, if set, acts on a process whose examination hangs or has failed. It is called only if the process was sent
	// a signal to stop at least haltTime ago. Until then, a busy host or a slow disk may be the reason.
	hung func(*process) error
}

// running returns those of the holders and suspects that are not harmless.
func (r rule) running(w *processTable, holders []Process, suspects []*process) []Process {
	left := slices.DeleteFunc(slices.Clone(holders), func(p Process) bool { return r.holderHarmless(w, p) })
	for _, p := range suspects {
		if !r.suspectHarmless(w, p) {
			left = append(left, p.Process)
		}
	}
	return left
}

// exceptCleared extends a rule: a suspect that was cleared after the look is harmless as well, although it may run
// again. The extended rule first checks whether the process is stopped, and then whether it was cleared. In the reverse
// order it could miss a process that is cleared and continues between the two checks.
func (t *Tool) exceptCleared(target Target, r rule) rule {
	harmless := r.suspectHarmless
	r.suspectHarmless = func(w *processTable, p *process) bool {
		return harmless(w, p) || t.suspects.isCleared(target.Dataset, p.Process)
	}
	return r
}

// repeat performs rounds until a look finds no process that could write, or ctx ends, or the processes
// cannot be listed. It stores errors in Outcome.Note.
//
// If anything had to be done during a round, the act is not done yet: a process may have forked another
// one before it was stopped, and the look may have missed that one.
func (t *Tool) repeat(ctx context.Context, target Target, r rule) Outcome {
	ctx, end := t.beginAct(ctx, target.Dataset)
	defer end()
	var o Outcome
	for {
		ended, err := t.round(ctx, target, r, &o)
		if err != nil {
			o.Note = noteOf(err, o.Note)
		}
		if ended {
			return o
		}
	}
}

// round performs one look and acts on its result. ended is true if the act is done, if ctx has ended, or
// if the processes cannot be listed.
func (t *Tool) round(ctx context.Context, target Target, r rule, o *Outcome) (ended bool, err error) {
	r = t.exceptCleared(target, r)
	l := t.looks.begin(ctx, t, target)
	w, err := l.namespaces(ctx)
	if err != nil {
		return true, err
	}
	acted, err := r.act(w, target, w.holdersByMounts(target))
	o.Changed = o.Changed || acted
	if acted {
		t.looks.recordAct(target.Dataset, t.Clock.Steady())
	}
	if late := l.descriptors(ctx); late != nil {
		o.Contained = len(r.running(w, w.holdersByMounts(target), nil)) == 0
		return true, errors.Join(err, late)
	}
	holders, suspects, err2 := t.classify(w, target)
	if err = errors.Join(err, err2); err2 != nil {
		return !t.waitFor(ctx, nil, nil), err
	}
	found := r.running(w, holders, suspects)
	again, err2 := r.act(w, target, holders)
	o.Changed = o.Changed || again
	stopped, err3 := t.stopSuspects(target, suspects)
	for _, p := range suspects {
		if r.hung != nil && t.suspects.isStuck(p, t.Clock.Steady()) && !p.protected(target) &&
			!r.suspectHarmless(w, p) {
			err3 = errors.Join(err3, r.hung(p))
		}
	}
	err = errors.Join(err, err2, err3)
	left := r.running(w, holders, suspects)
	o.At = clock.Boottime()
	if again || stopped || len(left) > 0 {
		t.looks.recordAct(target.Dataset, t.Clock.Steady())
	}
	if o.Done = !acted && !again && !stopped && len(found) == 0 && len(left) == 0; o.Done {
		o.Left, o.Note, o.Contained = nil, "", false
		if len(suspects) > 0 {
			o.Note = fmt.Sprintf("%d processes that could not be examined in time are stopped until they "+
				"have been examined", len(suspects))
		}
		return true, err
	}
	o.Left = slices.Clone(left[:min(len(left), MaxLeft)])
	o.Contained = !acted && !again && t.contained(w, r, holders, suspects)
	if len(suspects) > 0 {
		o.Note = fmt.Sprintf("%d processes could not be examined, for instance process %d (%s): %v", len(suspects),
			suspects[0].PID, suspects[0].Comm, suspects[0].unexamined)
	}
	return !t.waitFor(ctx, left, func(p Process) bool {
		if at := slices.IndexFunc(suspects, func(s *process) bool { return s.same(p) }); at >= 0 {
			return !isSame(p) || r.suspectHarmless(w, suspects[at])
		}
		return !isSame(p) || r.holderHarmless(w, p)
	}), err
}

// classify returns the holders of a dataset, and the processes that could not be examined and may be
// holders. A process that is already stopped as a holder counts as a holder without an examination. It
// also queues suspects that an earlier hand has stopped: see resumeSuspects.
func (t *Tool) classify(w *processTable, target Target) (holders []Process, suspects []*process, err error) {
	holders = w.holders(target)
	marks, err := t.marks.of(target.Dataset)
	if err != nil {
		return nil, nil, err
	}
	t.resumeSuspects(target, marks)
	known := map[string]bool{}
	for _, m := range marks {
		known[m.object] = known[m.object] || m.kind == markProcess
	}
	for _, p := range w.unexamined(target) {
		switch {
		case slices.ContainsFunc(holders, p.same): // one of its mount tables shows the dataset
		case known[p.markText()]:
			holders = append(holders, p.Process)
		case !t.suspects.isCleared(target.Dataset, p.Process):
			suspects = append(suspects, p)
		}
	}
	return holders, suspects, nil
}

// waitFor waits between two looks, until isDone is true for all processes in left. It waits for at most settlePauses
// pauses, because only the next look finds new holders. It returns false if ctx has ended. A look without this wait
// would take processor time from the processes that must stop or end.
func (t *Tool) waitFor(ctx context.Context, left []Process, isDone func(Process) bool) bool {
	for range settlePauses {
		select {
		case <-t.Clock.After(stopPoll):
		case <-ctx.Done():
			return false
		}
		if left = slices.DeleteFunc(left, isDone); len(left) == 0 {
			return true
		}
	}
	return true
}

// stoppedOrFrozen reports whether a process is stopped or frozen, so that it cannot continue by itself.
func stoppedOrFrozen(w *processTable, p Process) bool {
	if isHalted(p) {
		return true
	}
	g, ok := hierarchiesOf(w.own).groupOf(p.PID)
	return ok && g.frozen()
}

// stop starts to stop the holders that run, and makes the host's mount read-only. If the agent is a holder, it kills
// the agent instead of stopping it: see Target.Agent. acted is true if it signalled a process or froze a group. If
// PID 1 is a holder, it fails, because PID 1 cannot be stopped.
func (t *Tool) stop(w *processTable, target Target, holders []Process) (acted bool, err error) {
	h := hierarchiesOf(w.own)
	groups := map[group]bool{}
	var errs []error
	var single []Process
	for _, p := range holders {
		if p.same(target.Agent) {
			acted = true
			errs = append(errs, signal(p, unix.SIGKILL))
			continue
		}
		g, ok := h.groupOf(p.PID)
		alone, known := groups[g]
		if ok && !known {
			alone = onlyHolders(g, target, holders)
			groups[g] = alone
			if alone {
				did, err := t.freezeGroup(target, g)
				acted = acted || did
				errs = append(errs, err)
			}
		}
		if ok && alone {
			continue
		}
		if p.PID == 1 {
			errs = append(errs, errors.New("PID 1 holds it, and cannot be stopped"))
			continue
		}
		single = append(single, p)
	}
	did, err := t.halt(target, single, markProcess)
	return acted || did, errors.Join(append(errs, err, t.readOnly(w, target))...)
}

// onlyHolders reports whether all processes of a group are holders that may be frozen. A group with other processes
// may be a login session or a service of the host. It returns false if the group cannot be read.
func onlyHolders(g group, target Target, holders []Process) bool {
	members, err := g.members()
	if err != nil {
		return false
	}
	for _, pid := range members {
		mayFreeze := func(p Process) bool { return p.PID == pid && !p.Engine && !p.same(target.Agent) }
		if !slices.ContainsFunc(holders, mayFreeze) {
			return false
		}
	}
	return true
}

// freezeGroup freezes a group and marks it. A group that is already frozen for another dataset only gets
// a mark. A group that another program has frozen is left alone.
func (t *Tool) freezeGroup(target Target, g group) (acted bool, err error) {
	defer t.marks.lock()()
	all, err := t.marks.ofOthers()
	if err != nil {
		return false, err
	}
	asked := g.isFreezeRequested()
	if asked && !all[g.dir] {
		return false, nil // another program has frozen it, such as docker pause, and will thaw it
	}
	if err := t.marks.addLocked(target.Dataset, mark{g.kind, g.dir}); err != nil || asked {
		return false, err
	}
	return true, g.write("FROZEN", "1") // complete when frozen returns true
}

// halt marks the processes of a list and sends SIGSTOP to those that run. It leaves alone a process that another
// program has stopped. It queues suspects for their examination. acted is true if it sent a signal.
func (t *Tool) halt(target Target, list []Process, kind string) (acted bool, err error) {
	if len(list) == 0 {
		return false, nil
	}
	defer t.marks.lock()()
	ours, err := t.marks.addProcesses(target.Dataset, list, kind, t.suspects.isCleared)
	if err != nil {
		return false, err
	}
	var errs []error
	var queue []Process
	for i, p := range list {
		if ours[i] && !isHalted(p) {
			acted = true
			errs = append(errs, signal(p, unix.SIGSTOP))
		}
		if kind == markSuspect && !t.suspects.isCleared(target.Dataset, p) { // a look may have listed it before
			queue = append(queue, p)
		}
	}
	t.queueSuspects(target, queue)
	return acted, errors.Join(errs...)
}

// Kill kills the holders of a dataset, except an engine, which it stops. A process that waits in the kernel ends when
// the kernel returns. Kill also kills a process whose examination hangs or has failed, if it was sent a signal to stop
// at least haltTime ago and does not stop: see cannotStop.
//
// The act is done when a look at all processes finds no holder except stopped engines, and no running
// process that could not be examined. Errors are reported in Outcome.Note.
func (t *Tool) Kill(ctx context.Context, target Target) Outcome {
	r := t.killRule()
	r.hung = func(p *process) error {
		if !cannotStop(p.Process) {
			return nil
		}
		return signal(p.Process, unix.SIGKILL)
	}
	return t.repeat(ctx, target, r)
}

// KillHolders is like Kill, but it never kills a process that cannot be examined. It stops such a
// process, and names it in Outcome.Left as long as it runs.
func (t *Tool) KillHolders(ctx context.Context, target Target) Outcome {
	return t.repeat(ctx, target, t.killRule())
}

func (t *Tool) killRule() rule {
	return rule{
		holderHarmless:  func(_ *processTable, p Process) bool { return p.Engine && isHalted(p) },
		suspectHarmless: func(w *processTable, p *process) bool { return stoppedOrFrozen(w, p.Process) },
		act:             t.kill,
	}
}

// Condemn sends SIGKILL to the holders of a dataset, except an engine, which it stops. Unlike Kill, it does not wait
// for their end: a process that waits for a frozen filesystem ends only after the thaw. It only stops a process that
// cannot be examined, and never kills it. As long as such a process exists, the act is not done, and Outcome.Left
// names it.
//
// The act is done when a look has examined every process and finds only stopped engines, and holders that were sent
// SIGKILL before. After that, a thaw lets no process write except an engine. Errors are reported in Outcome.Note.
func (t *Tool) Condemn(ctx context.Context, target Target) Outcome {
	killed := map[processKey]bool{}
	return t.repeat(ctx, target, rule{
		holderHarmless:  func(_ *processTable, p Process) bool { return killed[p.key()] || p.Engine && isHalted(p) },
		suspectHarmless: func(*processTable, *process) bool { return false },
		act: func(w *processTable, target Target, holders []Process) (bool, error) {
			notKilled := slices.DeleteFunc(slices.Clone(holders), func(p Process) bool { return killed[p.key()] })
			if len(notKilled) == 0 {
				return false, nil
			}
			acted, err := t.kill(w, target, holders)
			for _, p := range notKilled {
				if err == nil && !p.Engine && p.PID != 1 {
					killed[p.key()] = true
				}
			}
			return acted, err
		},
	})
}

// kill sends SIGKILL to the holders, stops those that are engines, and makes the host's mount read-only. acted is
// true if any of them was running. If PID 1 is a holder, it fails, because PID 1 cannot be killed.
func (t *Tool) kill(w *processTable, target Target, holders []Process) (acted bool, err error) {
	var errs []error
	groups := map[group]bool{}
	h := hierarchiesOf(w.own)
	for _, p := range holders {
		switch {
		case p.PID == 1:
			errs = append(errs, errors.New("PID 1 holds it, and cannot be killed"))
		case p.Engine:
			did, err := t.halt(target, []Process{p}, markProcess)
			acted = acted || did
			errs = append(errs, err)
		default:
			acted = acted || !isHalted(p) // a stopped process cannot have forked during the look
			errs = append(errs, signal(p, unix.SIGKILL))
			if g, ok := h.groupOf(p.PID); ok && g.kind == markV1 {
				groups[g] = true
			}
		}
	}
	// No process dies in a frozen group of cgroup version 1, so thaw it. All of its processes were killed
	// just now: a group is frozen only if all of its processes are holders.
	marks, err := t.marks.of(target.Dataset)
	errs = append(errs, err)
	for g := range groups {
		if slices.Contains(marks, mark{g.kind, g.dir}) && onlyHolders(g, target, holders) {
			errs = append(errs, g.thaw())
		}
	}
	return acted, errors.Join(append(errs, t.readOnly(w, target))...)
}
