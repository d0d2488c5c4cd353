package hand

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/mount"
)

const (
	// pause is how long is waited before what was stopped is looked at.
	pause = 10 * time.Millisecond
	// settlePauses is how often that is done before all processes are looked at again.
	settlePauses = 20
)

// Stop stops the holders of a dataset where they are: the control group of those that
// have one for themselves, each process by SIGSTOP otherwise. And it makes the host's
// mount read-only, which lets nobody in whom the host lets in anew; the kernel refuses
// that as long as a file is open for writing through that mount. It is done when a look
// at all processes finds no holder that runs.
func (t *Tool) Stop(ctx context.Context, target Target) Outcome {
	return t.until(ctx, target, t.still, t.stop)
}

// until looks at the holders and acts on them until a look finds none that is not harmless,
// or the context ends.
func (t *Tool) until(ctx context.Context, target Target, harmless func(*world, Process) bool, act func(*world, Target, []Process) (bool, error)) Outcome {
	ctx, end := t.begin(ctx, target.Dataset)
	defer end()
	var o Outcome
	for {
		w, err := t.see(ctx)
		if err != nil {
			o.Note = note(err, o.Note)
			return o
		}
		looked := t.now()
		holders := w.holders(target)
		left := slices.DeleteFunc(slices.Clone(holders), func(p Process) bool { return harmless(w, p) })
		if o.Done = len(left) == 0; o.Done {
			o.At, o.Left, o.Note = looked, nil, ""
		} else {
			o.Left = slices.Clone(left[:min(len(left), MaxLeft)])
		}
		if w.unread > 0 {
			o.Note = fmt.Sprintf("%d processes did not let themselves be looked at in time", w.unread)
		}
		acted, err := act(w, target, holders)
		if err != nil {
			o.Note = note(err, o.Note)
		}
		o.Anew = o.Anew || acted
		if o.Done {
			return o
		}
		if !t.settle(ctx, left, func(p Process) bool { return !same(p) || harmless(w, p) }) {
			return o
		}
	}
}

// settle waits until processes are so, but not long: others may have come. It returns
// false when the context has ended. A look at all processes meanwhile would take the
// processor from those that have to come to an end.
func (t *Tool) settle(ctx context.Context, left []Process, so func(Process) bool) bool {
	for range settlePauses {
		select {
		case <-t.Clock.After(pause):
		case <-ctx.Done():
			return false
		}
		if left = slices.DeleteFunc(left, so); len(left) == 0 {
			return true
		}
	}
	return true
}

// note keeps in one line why something is not done; that time ran out says less than
// what was known before.
func note(err error, was string) string {
	if was != "" && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		return was
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// still tells whether a process cannot go on by itself.
func (t *Tool) still(w *world, p Process) bool {
	if halted(p) {
		return true
	}
	g, ok := hierarchiesOf(w.own).groupOf(p.PID)
	return ok && g.frozen()
}

// stop begins to stop what runs, and tells whether there was any.
func (t *Tool) stop(w *world, target Target, holders []Process) (acted bool, err error) {
	h := hierarchiesOf(w.own)
	groups := map[group]bool{}
	var errs []error
	for _, p := range holders {
		if p.is(target.Agent) {
			acted = true
			errs = append(errs, signal(p, unix.SIGKILL))
			continue
		}
		g, ok := h.groupOf(p.PID)
		alone, known := groups[g]
		if ok && !known {
			alone = t.alone(g, target, holders)
			groups[g] = alone
			if alone && !g.asked() {
				acted = true
				errs = append(errs, t.freezeGroup(target, g))
			}
		}
		if ok && alone || halted(p) {
			continue
		}
		if p.PID == 1 {
			errs = append(errs, errors.New("PID 1 holds it, and cannot be stopped"))
			continue
		}
		acted = true
		errs = append(errs, t.stopProcess(target, p))
	}
	return acted, errors.Join(append(errs, t.readOnly(w, target))...)
}

// alone tells whether a group has no process but holders that may be frozen: one that has
// others is a login session, or a service of the host.
func (t *Tool) alone(g group, target Target, holders []Process) bool {
	members, err := g.members()
	if err != nil {
		return false
	}
	for _, pid := range members {
		if !slices.ContainsFunc(holders, func(p Process) bool { return p.PID == pid && !p.Engine && !p.is(target.Agent) }) {
			return false
		}
	}
	return true
}

func (t *Tool) freezeGroup(target Target, g group) error {
	if err := t.note(target.Dataset, mark{g.kind, g.dir}); err != nil {
		return err
	}
	return g.freeze()
}

func (t *Tool) stopProcess(target Target, p Process) error {
	if err := t.note(target.Dataset, mark{markProcess, fmt.Sprintf("%d %d", p.PID, p.Start)}); err != nil {
		return err
	}
	return signal(p, unix.SIGSTOP)
}

// readOnly sets the read-only flag of the host's mount, mount_setattr(2). EBUSY, for a
// file that is open for writing, is how it is while a holder is stopped.
func (t *Tool) readOnly(w *world, target Target) error {
	fsys := w.filesystem(target)
	if fsys.entry == nil || readOnly(fsys.entry) {
		return nil
	}
	if err := t.note(target.Dataset, mark{markReadOnly, fsys.entry.Mountpoint}); err != nil {
		return err
	}
	err := setReadOnly(fsys.entry.Mountpoint, true)
	if errors.Is(err, unix.EBUSY) {
		return nil
	}
	return err
}

func setReadOnly(path string, on bool) error {
	attr := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	if on {
		attr = unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	}
	return unix.MountSetattr(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, &attr)
}

// Kill kills the holders of a dataset, except an engine, which it stops. It is done when
// a look at all processes finds no other. A process that waits in the kernel dies
// when that lets it go.
func (t *Tool) Kill(ctx context.Context, target Target) Outcome {
	harmless := func(_ *world, p Process) bool { return p.Engine && halted(p) }
	return t.until(ctx, target, harmless, t.kill)
}

func (t *Tool) kill(w *world, target Target, holders []Process) (acted bool, err error) {
	var errs []error
	groups := map[group]bool{}
	h := hierarchiesOf(w.own)
	for _, p := range holders {
		switch {
		case p.PID == 1:
			errs = append(errs, errors.New("PID 1 holds it, and cannot be killed"))
		case p.Engine:
			if !halted(p) {
				acted = true
				errs = append(errs, t.stopProcess(target, p))
			}
		default:
			acted = true
			errs = append(errs, signal(p, unix.SIGKILL))
			if g, ok := h.groupOf(p.PID); ok && g.kind == markV1 {
				groups[g] = true
			}
		}
	}
	// In a frozen group of the first version nothing dies. All that was frozen with it was
	// killed just now: a group is frozen only when there is nothing else in it.
	marks, err := t.marks(target.Dataset)
	errs = append(errs, err)
	for g := range groups {
		if slices.Contains(marks, mark{g.kind, g.dir}) && t.alone(g, target, holders) {
			errs = append(errs, g.thaw())
		}
	}
	return acted, errors.Join(append(errs, t.readOnly(w, target))...)
}

// Undo lets go on what Freeze and Stop have stopped. What is gone, or goes on already, is
// no error; after one the rest is undone all the same, and what was not can be again.
// Acts on the dataset that are under way are ended first.
func (t *Tool) Undo(ctx context.Context, target Target) error {
	if err := t.end(ctx, target.Dataset); err != nil {
		return err
	}
	marks, err := t.marks(target.Dataset)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range marks {
		if err := t.undo(target, m); err != nil {
			errs = append(errs, fmt.Errorf("undo %s %s: %w", m.kind, m.what, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := errors.Join(remove(t.markFile(target.Dataset)), remove(t.frozenMark(target.Dataset))); err != nil {
		return err
	}
	// A freeze that the kernel was through with only now has seen that it was not undone
	// yet; a later one sees that it was.
	if slices.Contains(marks, mark{markFreeze, "-"}) {
		return t.thaw(target)
	}
	return nil
}

func (t *Tool) undo(target Target, m mark) error {
	switch m.kind {
	case markFreeze:
		return t.thaw(target)
	case markV1, markV2:
		return group{m.kind, m.what}.thaw()
	case markProcess:
		pid, start, _ := strings.Cut(m.what, " ")
		p := Process{}
		var err1, err2 error
		p.PID, err1 = strconv.Atoi(pid)
		p.Start, err2 = strconv.ParseUint(start, 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		return signal(p, unix.SIGCONT)
	case markReadOnly:
		table, err := mount.Table()
		if err != nil {
			return err
		}
		if table.At(m.what) == nil {
			return nil
		}
		return setReadOnly(m.what, false)
	case markLimit:
		return t.undoLimit(target, m.what)
	}
	return errors.New("this guard does not know what that is")
}
