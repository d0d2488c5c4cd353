package hand

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/mount"
)

// Undo lets go on what Freeze, Stop, Kill and Condemn have stopped. What is gone, or goes on
// already, is no error; after one the rest is undone all the same, and what was not can be again. A
// process or a control group that another dataset keeps stopped stays so. Acts on the dataset that
// are under way are ended first.
func (t *Tool) Undo(ctx context.Context, target Target) error {
	if err := t.end(ctx, target.Dataset); err != nil {
		return err
	}
	t.suspects.forget(target.Dataset)
	t.looks.forget(target.Dataset)
	marks, err := t.marks(target.Dataset)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range marks {
		if m.shared() {
			continue
		}
		if err := t.undo(target, m); err != nil {
			errs = append(errs, fmt.Errorf("undo %s %s: %w", m.kind, m.what, err))
		}
	}
	errs = append(errs, t.undoShared(target, len(errs) > 0))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := remove(t.frozenMark(target.Dataset)); err != nil {
		return err
	}
	// A freeze that the kernel was through with only now has seen that it was not undone
	// yet; a later one sees that it was.
	if slices.Contains(marks, mark{markFreeze, "-"}) {
		return t.thaw(target)
	}
	return nil
}

// shared reports whether a mark is of something that several datasets may keep stopped.
func (m mark) shared() bool {
	return m.kind == markProcess || m.kind == markSuspect || m.kind == markV1 || m.kind == markV2
}

// undoShared lets the processes and groups go on that no other dataset keeps stopped, and removes
// the marks of the dataset unless some are kept. The lock is held all the while: an act for another
// dataset that finds a process stopped notes it before or after this, and not in between.
func (t *Tool) undoShared(target Target, keep bool) error {
	defer t.lockMarks()()
	marks, err := t.marks(target.Dataset)
	if err != nil {
		return err
	}
	others, err := t.marksOfAll(target.Dataset)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range marks {
		if !m.shared() || others.has(m.what) {
			continue
		}
		if err := t.undo(target, m); err != nil {
			errs = append(errs, fmt.Errorf("undo %s %s: %w", m.kind, m.what, err))
		}
	}
	if len(errs) > 0 || keep {
		return errors.Join(errs...)
	}
	return remove(t.markFile(target.Dataset))
}

func (t *Tool) undo(target Target, m mark) error {
	switch m.kind {
	case markFreeze:
		return t.thaw(target)
	case markV1, markV2:
		return group{m.kind, m.what}.thaw()
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
		if table.At(m.what) == nil {
			return nil
		}
		return setReadOnly(m.what, false)
	case markLimit:
		return t.undoLimit(target, m.what)
	}
	return errors.New("this guard does not know what that is")
}
