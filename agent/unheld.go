package agent

import (
	"context"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// unmountUnheld unmounts a dataset without a recorded use. If a process has it mounted nevertheless, it
// stays mounted, the guard keeps watching it, and unmountUnheld fails with ErrInUse. The dataset's lock
// is held.
func (a *Agent) unmountUnheld(ctx context.Context, d dataset.Dataset) error {
	if err := a.holders.Check(ctx, d, "unmount"); err != nil {
		a.uses.MarkIdle(d.ID)
		return err
	}
	if err := a.unmountLocked(d); err != nil {
		return err
	}
	a.registrar.Release(d.ID)
	return nil
}

// releaseUnheld makes the guard forget a dataset that is not mounted. If a process on this host has it
// mounted nevertheless, the guard keeps it and releaseUnheld fails with ErrInUse. If the guard does not
// watch the dataset, releaseUnheld does nothing. The dataset's lock is held.
func (a *Agent) releaseUnheld(ctx context.Context, d dataset.Dataset) error {
	if _, armed := a.deadlines.Armed(d.ID); !armed || a.config.Guard == nil {
		return nil
	}
	if err := a.checkUnheldByGuard(ctx, d); err != nil {
		if a.deadlines.NoteKept(d.ID, err.Error()) {
			const watches = "the guard keeps watching the unmounted volume, because a process may still write to it"
			a.LogOf(d).WithError(err).Warn(watches)
		}
		return err
	}
	a.registrar.Release(d.ID)
	return nil
}

// checkUnheldByGuard is like Holders.Check for a dataset that is not mounted. It uses the filesystem that
// the guard has recorded for the dataset.
func (a *Agent) checkUnheldByGuard(ctx context.Context, d dataset.Dataset) error {
	e, there, err := a.registrar.Entry(ctx, d.ID)
	if err == nil && (!there || e.Filesystem == mount.Filesystem{}) { // it was never mounted
		return nil
	}
	if err == nil {
		look, lerr := a.holders.LookAtFiles(ctx, e.Filesystem)
		if lerr == nil && len(a.holders.OfTree(look, d, e.Filesystem)) == 0 {
			return nil
		}
	}
	// These holders may have another filesystem, one that has got the device number since. The pool knows.
	if err := a.holders.CheckPool(ctx, d); err != nil {
		return dataset.Errorf(dataset.ErrInUse,
			"volume %s is unmounted, but still in use on node %s: %w", d.Volume, a.NodeName, err)
	}
	return nil
}
