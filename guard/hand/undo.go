package hand

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/mount"
)

// Undo undoes what Freeze, Stop, Kill, KillHolders and Condemn have done to a dataset and its holders: processes
// continue, and the filesystem is writable again. It first ends the acts on the dataset that are under
// way. A process or control group that is also stopped for another dataset stays stopped.
//
// Idempotent: a process that has ended or already runs is no error. If one step fails, Undo continues
// with the others and returns the errors of all. The caller can then call it again.
func (t *Tool) Undo(ctx context.Context, target Target) error {
	if err := t.endActs(ctx, target.Dataset); err != nil {
		return err
	}
	t.suspects.forget(target.Dataset)
	t.looks.forget(target.Dataset)
	marks, err := t.marks.of(target.Dataset)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range marks {
		if m.isShareable() {
			continue
		}
		if err := t.undo(target, m); err != nil {
			errs = append(errs, fmt.Errorf("undo %s %s: %w", m.kind, m.object, err))
		}
	}
	errs = append(errs, t.undoShared(target, len(errs) > 0))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := remove(t.marks.frozenFile(target.Dataset)); err != nil {
		return err
	}
	// Thaw again, because the kernel may have finished a freeze after the first thaw and before the marks were
	// removed. A freeze that finishes later notices that its mark is missing, and thaws by itself.
	if slices.Contains(marks, mark{markFreeze, "-"}) {
		return t.freezer.thaw(target)
	}
	return nil
}

// isShareable reports whether a mark is of a process or control group, which may be stopped for several datasets.
func (m mark) isShareable() bool {
	return m.kind == markProcess || m.kind == markSuspect || m.kind == markV1 || m.kind == markV2
}

// undoShared continues the processes and control groups of a dataset, except those that are also stopped for another
// dataset. Then it removes the marks of the dataset, unless keep is set or a step failed. It holds the lock of the
// marks all the time, so that an act for another dataset cannot mark a stopped process between the check and the
// SIGCONT.
func (t *Tool) undoShared(target Target, keep bool) error {
	defer t.marks.lock()()
	marks, err := t.marks.of(target.Dataset)
	if err != nil {
		return err
	}
	others, err := t.marks.ofOthers(target.Dataset)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range marks {
		if !m.isShareable() || others[m.object] {
			continue
		}
		if err := t.undo(target, m); err != nil {
			errs = append(errs, fmt.Errorf("undo %s %s: %w", m.kind, m.object, err))
		}
	}
	if len(errs) > 0 || keep {
		return errors.Join(errs...)
	}
	return remove(t.marks.file(target.Dataset))
}

func (t *Tool) undo(target Target, m mark) error {
	switch m.kind {
	case markFreeze:
		return t.freezer.thaw(target)
	case markV1, markV2:
		return group{m.kind, m.object}.thaw()
	case markProcess, markSuspect:
		p, err := m.process()
		if err != nil {
			return err
		}
		return signal(p, unix.SIGCONT)
	case markReadOnly:
		table, err := mount.Table()
		if err != nil {
			return err
		}
		if table.At(m.object) == nil {
			return nil
		}
		return setReadOnly(m.object, false)
	case markLimit:
		return t.freezer.undoLimit(target, m.object)
	}
	return errors.New("unknown kind of mark (written by another version of the guard)")
}
