package move

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/steps"
)

// ReconcileInspection mounts a superseded head, or unmounts it, as its record says. Idempotent. The caller holds the
// copy's lock.
func (c *Copies) ReconcileInspection(ctx context.Context, pool backends.Pool, k api.AssignedCopy) error {
	switch {
	case records.IsInspected(k):
		return c.MountInspection(ctx, pool, k)
	case k.Kind == dataset.CopySuperseded, k.PreviousKind == dataset.CopySuperseded:
		return c.UnmountInspection(ctx, pool, k)
	}
	return nil
}

// ReportInspection reports to control where a copy is mounted, if it is, and why it is not in its recorded state. If
// control knows that already, it does nothing.
func (c *Copies) ReportInspection(ctx context.Context, k api.AssignedCopy, why error) error {
	if k.Kind != dataset.CopySuperseded || !k.MountReadOnly && k.Path == "" && k.Problem == "" || ctx.Err() != nil {
		return why
	}
	path := c.MountPath(records.InspectionID(k))
	mounted, err := host.IsMountPoint(path)
	if err != nil {
		return errors.Join(why, err)
	}
	now := k.Copy
	now.Path = ""
	if mounted {
		now.Path = path
	}
	now.Problem = c.problem(k, why)
	if now == k.Copy {
		return why
	}
	return errors.Join(why, c.Report(ctx, api.CopyReport{Copy: now, MountOnly: true}))
}

// failure is a problem of a copy, as it was first reported.
type failure struct {
	kind *dataset.Kind
	text string
}

// problem returns why a copy is not in its recorded state, for control's record. The text of a problem can differ at
// each attempt, for example in the name of a device. Only the first text is reported, because each report is a write
// to the store. The log has every text.
func (c *Copies) problem(k api.AssignedCopy, why error) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if why == nil {
		delete(c.failed, k.Dataset)
		return ""
	}
	was, kind := c.failed[k.Dataset], dataset.KindOf(why)
	if k.Problem == "" || was.kind != kind { // a new request, or a problem of another kind
		was = failure{kind, dataset.OneLine(why)}
		c.failed[k.Dataset] = was
	}
	return was.text
}

// MountInspection mounts a superseded head. A pool without copies (not a backends.Copier) has only the head and no
// snapshot of it, so MountInspection mounts the head itself.
func (c *Copies) MountInspection(ctx context.Context, pool backends.Pool, k api.AssignedCopy) error {
	d := *k.Record
	d.ID, d.Size, d.ReadOnly = records.InspectionID(k), 0, true
	path := c.MountPath(d.ID)
	if mounted, err := host.IsMountPoint(path); err != nil || mounted {
		return err
	}
	what := "inspect the copy of volume " + d.Volume + " on node " + c.NodeName
	if _, copies := pool.(backends.Copier); copies && k.Snapshot == uuid.Nil {
		return dataset.Errorf(dataset.ErrPending, "%s: it has not been saved as a snapshot yet", what)
	} else if !copies {
		d.ID = k.Dataset
	} else if _, err := pool.Clone(ctx, d, dataset.Source{Dataset: k.Dataset, Snapshot: k.Snapshot}, nil); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	steps.At("show.cloned")
	if err := mounting.MakeMountPoint(path); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := c.MountDataset(ctx, pool, d, path); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	steps.At("show.mounted")
	c.LogOf(ctx, d).WithField("path", path).Info("mounted a superseded copy read-only, as requested")
	return nil
}

// UnmountInspection removes what MountInspection made.
func (c *Copies) UnmountInspection(ctx context.Context, pool backends.Pool, k api.AssignedCopy) error {
	id := records.InspectionID(k)
	path := c.MountPath(id)
	err := mount.Unmount(path)
	switch {
	case errors.Is(err, mount.ErrBusy):
		return dataset.Errorf(dataset.ErrInUse, "the superseded copy of dataset %[2]s on node %[1]s stays "+
			"mounted: a process on the host still uses %[3]s (fuser -vm %[4]s shows it); retrying the unmount",
			c.NodeName, k.Dataset, path, path)
	case err != nil && !errors.Is(err, mount.ErrNotMounted) && !errors.Is(err, os.ErrNotExist):
		return err
	}
	steps.At("hide.unmounted")
	if err := mounting.RemoveMountPoint(path); err != nil {
		return err
	}
	return pool.Delete(ctx, id)
}
