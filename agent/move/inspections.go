package move

import (
	"context"
	"errors"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// ReconcileInspection mounts a superseded head, or unmounts it, as its record says. Idempotent. The caller holds the
// copy's lock.
func (c *Copies) ReconcileInspection(ctx context.Context, pool backends.Pool, k api.AssignedCopy) error {
	switch {
	case host.IsInspected(k):
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
	path := c.MountPath(host.InspectionID(k))
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
