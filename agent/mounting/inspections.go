package mounting

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/steps"
	"github.com/google/uuid"
)

// MountInspection mounts a superseded head. A pool without copies (not a backends.Copier) has only the head and no
// snapshot of it, so MountInspection mounts the head itself.
func (m *Mounts) MountInspection(ctx context.Context, pool backends.Pool, k api.AssignedCopy) error {
	d := *k.Record
	d.ID, d.Size, d.ReadOnly = host.InspectionID(k), 0, true
	path := m.MountPath(d.ID)
	if mounted, err := host.IsMountPoint(path); err != nil || mounted {
		return err
	}
	what := "inspect the copy of volume " + d.Volume + " on node " + m.NodeName
	if _, copies := pool.(backends.Copier); copies && k.Snapshot == uuid.Nil {
		return dataset.Errorf(dataset.ErrPending, "%s: it has not been saved as a snapshot yet", what)
	} else if !copies {
		d.ID = k.Dataset
	} else if _, err := pool.Clone(ctx, d, dataset.Source{Dataset: k.Dataset, Snapshot: k.Snapshot}, nil); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	steps.At("show.cloned")
	if err := MakeMountPoint(path); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := m.MountDataset(ctx, pool, d, path); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	steps.At("show.mounted")
	m.LogOf(ctx, d).WithField("path", path).Info("mounted a superseded copy read-only, as requested")
	return nil
}

// UnmountInspection removes what MountInspection made.
func (m *Mounts) UnmountInspection(ctx context.Context, pool backends.Pool, k api.AssignedCopy) error {
	id := host.InspectionID(k)
	path := m.MountPath(id)
	err := mount.Unmount(path)
	switch {
	case errors.Is(err, mount.ErrBusy):
		return dataset.Errorf(dataset.ErrInUse, "the superseded copy of dataset %[2]s on node %[1]s stays "+
			"mounted: a process on the host still uses %[3]s (fuser -vm %[4]s shows it); retrying the unmount",
			m.NodeName, k.Dataset, path, path)
	case err != nil && !errors.Is(err, mount.ErrNotMounted) && !errors.Is(err, os.ErrNotExist):
		return err
	}
	steps.At("hide.unmounted")
	if err := RemoveMountPoint(path); err != nil {
		return err
	}
	return pool.Delete(ctx, id)
}
