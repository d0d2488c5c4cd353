package throttle

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/iolimit"
	"github.com/droverhq/drover/internal/linux/mount"
)

// Load reads the rules that were set before this start. It removes a rule whose device is gone or now belongs to
// something else, because the next user of the device number would inherit the rule. A dataset that is still mounted
// keeps its limits. If a crash left them suspended, they are set again.
func (l *Throttler) Load(ctx context.Context) error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	var errs []error
	var gone []*Limited
	err = host.EachDataset(ctx, l.DB, "limits/", func(id uuid.UUID, rec LimitRecord) error {
		e := &Limited{id: id, Record: rec}
		m := table.At(l.MountPath(e.id))
		if e.Record.Boot == l.Boot && m != nil &&
			e.Record.Device == (iolimit.Device{Major: uint32(m.Major), Minor: uint32(m.Minor)}) {
			l.put(e)
		} else {
			gone = append(gone, e)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, e := range gone {
		errs = append(errs, l.forget(ctx, e.id, e.Record))
	}
	if l.HierarchyProblem == nil {
		errs = append(errs, l.applyAll(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		l.Log.WithError(err).Error("cannot restore the throttling limits of an earlier start")
	}
	for _, m := range table.Under(l.MountRoot()) {
		id, err := uuid.Parse(filepath.Base(m.Mountpoint))
		if d, known := l.Cache.Dataset(id); err == nil && known && d.Profile.QoS.Limited() {
			l.applyProfile(d)
		}
	}
	return nil
}

// applyAll sets all recorded rules again at a start. It asks the guard only once for all rules. If the guard hangs,
// the waiting times of several requests would add up.
func (l *Throttler) applyAll(ctx context.Context) error {
	all, values := l.All(), map[string]any{}
	for _, e := range all {
		e.Record.Suspended = time.Time{}
		values["limits/"+e.id.String()] = e.Record
	}
	if err := l.DB.Put(ctx, values); err != nil {
		return err
	}
	fencing := l.Fences.FencingCheck()
	var errs []error
	for _, e := range all {
		errs = append(errs, l.apply(e, fencing))
	}
	return errors.Join(errs...)
}

// End removes the limits of a dataset that is no longer mounted.
func (l *Throttler) End(d dataset.Dataset) {
	l.setFailure(d.ID, nil)
	e := l.Get(d.ID)
	if e == nil {
		return
	}
	if err := l.removeRules(context.WithoutCancel(l.Ctx), e); err != nil {
		l.log(d).WithError(err).Error("cannot remove its throttling limits")
	}
}

// removeRules forgets the limit of a dataset, and removes its rules from the device.
func (l *Throttler) removeRules(ctx context.Context, e *Limited) error {
	e.Mu.Lock()
	over, rec := e.ended, e.Record
	e.ended = true
	e.Mu.Unlock()
	if over {
		return nil
	}
	l.mu.Lock()
	delete(l.Limited, e.id)
	l.mu.Unlock()
	return l.forget(ctx, e.id, rec)
}

// forget removes the rules of a device that no longer belongs to the dataset. A rule that cannot be removed stays
// recorded, and the next start tries again.
func (l *Throttler) forget(ctx context.Context, id uuid.UUID, rec LimitRecord) error {
	if rec.Boot == l.Boot {
		if l.HierarchyProblem != nil {
			return nil // this host has no usable hierarchy since it started
		}
		if err := l.subtractRules(rec); err != nil {
			return err
		}
	}
	return l.DB.Put(ctx, map[string]any{"limits/" + id.String(): nil})
}

// subtractRules removes the values in the record from the rules of its device. Other values stay, because another
// program may have set them for the present user of the device number. If another volume has the device number now, the
// rules of that volume's groups stay.
func (l *Throttler) subtractRules(rec LimitRecord) error {
	groups := rec.Groups
	for _, e := range l.All() {
		if e.device() == rec.Device {
			e.Mu.Lock() // so that its groups do not change
			defer e.Mu.Unlock()
			groups = slices.DeleteFunc(slices.Clone(groups),
				func(g string) bool { return slices.Contains(e.Record.Groups, g) })
			break
		}
	}
	var errs []error
	for _, g := range groups {
		has, err := l.Hierarchy.Get(g, rec.Device)
		if rest := has.Without(append(rec.Earlier, rec.Limits)...); err == nil && rest != has {
			err = l.Hierarchy.Set(g, rec.Device, rest)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// RemoveInherited removes rules that already exist for the device of a dataset that was just mounted. They were set for
// an earlier user of the device number, for example by an agent on this host whose records are lost.
func (l *Throttler) RemoveInherited(d dataset.Dataset) {
	dev, own, err := iolimit.DeviceOf(l.MountPath(d.ID))
	if err != nil || !own || l.HierarchyProblem != nil {
		return
	}
	if e := l.Get(d.ID); e != nil && e.device() == dev {
		return
	}
	for _, g := range l.baseGroups() {
		has, err := l.Hierarchy.Get(g, dev)
		if err == nil && has == (iolimit.Limits{}) {
			continue
		}
		log := l.log(d).WithField("group", g).WithField("device", dev)
		if err == nil {
			err = l.Hierarchy.Clear(g, dev)
		}
		if err == nil {
			log.Warn("removed a foreign limit from its device number")
			continue
		}
		log.WithError(err).Error("its device number may have a foreign limit")
	}
}
