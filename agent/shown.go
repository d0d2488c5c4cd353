package agent

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/steps"
)

// A head that was overtaken is looked at through a clone that stays incoming, as no record
// has it, mounted read-only: what is kept is not touched by that, not by the recovery of its
// filesystem's log either. Its UUID is made of what it shows, so that each start finds it.

// settleShown mounts a head that was overtaken, or takes that away, as is wanted. Again:
// nothing. The copy's lock is held.
func (a *Agent) settleShown(ctx context.Context, pool backends.Pool, k api.Kept) error {
	switch {
	case records.IsShown(k):
		return a.show(ctx, pool, k)
	case k.Kind == dataset.CopySuperseded, k.Was == dataset.CopySuperseded:
		return a.hide(ctx, pool, k)
	}
	return nil
}

// tellShown tells control where a copy is mounted, if it is, and why it is not as it is to
// be; nothing when control knows that.
func (a *Agent) tellShown(ctx context.Context, k api.Kept, why error) error {
	if k.Kind != dataset.CopySuperseded || !k.Shown && k.Path == "" && k.Problem == "" || ctx.Err() != nil {
		return why
	}
	path := a.MountPath(records.ShownAs(k))
	mounted, err := host.IsMountPoint(path)
	if err != nil {
		return errors.Join(why, err)
	}
	now := k.Copy
	now.Path = ""
	if mounted {
		now.Path = path
	}
	now.Problem = a.shownProblem(k, why)
	if now == k.Copy {
		return why
	}
	return errors.Join(why, a.tellCopy(ctx, api.Copied{Copy: now, Looked: true}))
}

// failure is why something did not come about, as it was told first.
type failure struct {
	kind *dataset.Kind
	text string
}

// shownProblem is why a copy is not as it is to be, for the record. What differs each time
// that it is tried, as the name of a device does, is told once: each time would be a write to
// the store. The log has it.
func (a *Agent) shownProblem(k api.Kept, why error) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if why == nil {
		delete(a.showFailed, k.Dataset)
		return ""
	}
	was, kind := a.showFailed[k.Dataset], dataset.KindOf(why)
	if k.Problem == "" || was.kind != kind { // it is wanted anew, or it is something else
		was = failure{kind, dataset.OneLine(why)}
		a.showFailed[k.Dataset] = was
	}
	return was.text
}

// show mounts it. A pool that keeps no copies has the head as it lies, and nothing that
// could be told from it: that is what is mounted then.
func (a *Agent) show(ctx context.Context, pool backends.Pool, k api.Kept) error {
	d := *k.Record
	d.ID, d.Size, d.ReadOnly = records.ShownAs(k), 0, true
	path := a.MountPath(d.ID)
	if mounted, err := host.IsMountPoint(path); err != nil || mounted {
		return err
	}
	what := "look at what node " + a.NodeName + " keeps of volume " + d.Volume
	if _, copies := pool.(backends.Copier); copies && k.Snapshot == uuid.Nil {
		return dataset.Errorf(dataset.ErrPending, "%s: it is not kept as a snapshot yet", what)
	} else if !copies {
		d.ID = k.Dataset
	} else if _, err := pool.Clone(ctx, d, dataset.Source{Dataset: k.Dataset, Snapshot: k.Snapshot}, nil); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	steps.At("show.cloned")
	if err := a.mountpoint(path); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := a.mountDataset(ctx, pool, d, path); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	steps.At("show.mounted")
	a.LogOf(d).WithField("path", path).Info("head that was overtaken is mounted read-only, for somebody to look at")
	return nil
}

// hide takes away what show made.
func (a *Agent) hide(ctx context.Context, pool backends.Pool, k api.Kept) error {
	id := records.ShownAs(k)
	path := a.MountPath(id)
	err := mount.Unmount(path)
	switch {
	case errors.Is(err, mount.ErrBusy):
		return dataset.Errorf(dataset.ErrInUse, "what node %s keeps of dataset %s stays mounted: something on the host still uses %s (fuser -vm %s shows what); the unmount is tried again", a.NodeName, k.Dataset, path, path)
	case err != nil && !errors.Is(err, mount.ErrNotMounted) && !errors.Is(err, os.ErrNotExist):
		return err
	}
	steps.At("hide.unmounted")
	if err := a.removeMountpoint(path); err != nil {
		return err
	}
	return pool.Delete(ctx, id)
}

// checkShown says of a mount that no container has whether a person asked for it.
func (a *Agent) checkShown(r *diagnosis, id uuid.UUID, path string) bool {
	k, is := a.Cache.ShownBy(id)
	if is {
		r.Add(findings.Info, "mount "+path, "drover volume superseded mount "+k.Dataset.String()+" "+a.NodeName+" --off", "shows the head of volume %s that was overtaken, read-only, as somebody asked for", k.Record.Volume)
	}
	return is
}
