package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/iolimit"
	"github.com/droverhq/drover/internal/linux/mount"
)

// loadLimits takes in what was set before this start. What was set for a device that is
// another's now, or nobody's, is taken away: who got its number would inherit that. What is
// mounted still holds its limits from here on, also where a crash had left them lifted.
func (l *limits) loadLimits(ctx context.Context, recovered bool) error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	var errs []error
	var gone []*limited
	err = errors.Join(
		l.db.Each(ctx, "limits/", func(rest string, v []byte) error {
			e := &limited{}
			var err error
			if e.id, err = uuid.Parse(rest); err != nil {
				return err
			}
			if err := json.Unmarshal(v, &e.rec); err != nil {
				return err
			}
			m := table.At(l.mounts.Path(e.id))
			if e.rec.Boot == l.boot && m != nil && e.rec.Device == (iolimit.Device{Major: uint32(m.Major), Minor: uint32(m.Minor)}) {
				l.put(e)
			} else {
				gone = append(gone, e)
			}
			return nil
		}),
		l.db.Each(ctx, "left/", func(_ string, v []byte) error {
			var rec limitRecord
			err := json.Unmarshal(v, &rec)
			l.left[rec.Device] = rec
			return err
		}))
	if err != nil {
		return err
	}
	for _, e := range gone {
		errs = append(errs, l.strip(ctx, e.id, e.rec))
	}
	l.clearLeft(ctx)
	if recovered {
		errs = append(errs, l.sweep())
	}
	if l.why == nil {
		errs = append(errs, l.imposeAll(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		l.logger.WithError(err).Error("what limited the speed of volumes before this start is not as it should be")
	}
	for _, m := range table.Under(l.mounts.Root()) {
		id, err := uuid.Parse(filepath.Base(m.Mountpoint))
		if d, known := l.cache.Dataset(id); err == nil && known && d.Profile.QoS.Limited() {
			l.relimit(d)
		}
	}
	return nil
}

// imposeAll has all hold again what is on record, at a start. A guard that hangs is asked once for
// all of them: so long they would wait, each.
func (l *limits) imposeAll(ctx context.Context) error {
	all, told := l.all(), map[string]any{}
	for _, e := range all {
		e.rec.Lifted = time.Time{}
		told["limits/"+e.id.String()] = e.rec
	}
	if err := l.db.Put(ctx, told); err != nil {
		return err
	}
	fencing := l.fence.Look()
	var errs []error
	for _, e := range all {
		errs = append(errs, l.impose(e, fencing))
	}
	return errors.Join(errs...)
}

// above returns the groups that rules are set on whoever uses a volume, whether or not they are
// there.
func (l *limits) above() []string {
	if l.hierarchy.Version == iolimit.V1 {
		return []string{iolimit.Root}
	}
	return l.parents
}

// sweep takes away what limits loop devices that have no file, where the agent's state was lost,
// and with it what it has set: of no use to anybody now, and whoever gets the number would have
// it. A number of any other device is not used again: its rules went with it.
func (l *limits) sweep() error {
	if l.why != nil {
		return nil
	}
	var errs []error
	for _, g := range l.above() {
		rules, err := l.hierarchy.Rules(g)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for dev, has := range rules {
			if dev.Major != loopMajor || has == (iolimit.Limits{}) || attached(dev) {
				continue
			}
			l.logger.WithField("group", g).WithField("device", dev).Warn("a loop device without a file had a limit: taken away")
			errs = append(errs, l.hierarchy.Clear(g, dev))
		}
	}
	return errors.Join(errs...)
}

const loopMajor = 7 // Documentation/admin-guide/devices.txt

// attached tells whether a loop device may have a file (Documentation/ABI/testing/sysfs-block-loop).
func attached(dev iolimit.Device) bool {
	_, err := os.Stat("/sys/dev/block/" + dev.String() + "/loop/backing_file")
	return !errors.Is(err, fs.ErrNotExist)
}

// endLimit forgets the limits of a dataset that is mounted no more.
func (l *limits) endLimit(d dataset.Dataset) {
	l.miss(d.ID, nil)
	e := l.get(d.ID)
	if e == nil {
		return
	}
	if err := l.unlimited(context.WithoutCancel(l.ctx), e); err != nil {
		l.log(d).WithError(err).Error("limits of its speed were left over")
	}
}

// unlimited forgets the limits of a dataset, whose device it takes them away from.
func (l *limits) unlimited(ctx context.Context, e *limited) error {
	e.mu.Lock()
	over, rec := e.over, e.rec
	e.over = true
	e.mu.Unlock()
	if over {
		return nil
	}
	l.mu.Lock()
	delete(l.of, e.id)
	l.mu.Unlock()
	return l.strip(ctx, e.id, rec)
}

// strip takes away what was told of a device that is no more what a dataset lies on. What
// cannot be taken away stays on record, by the device.
func (l *limits) strip(ctx context.Context, id uuid.UUID, rec limitRecord) error {
	told := map[string]any{"limits/" + id.String(): nil}
	err := l.takeAway(rec)
	if err != nil {
		told["left/"+rec.Device.String()] = l.leaves(rec)
	}
	if errors.Is(err, errNotNow) {
		err = nil
	}
	return errors.Join(err, l.db.Put(ctx, told))
}

// leaves notes what is left on a device, with what was before.
func (l *limits) leaves(rec limitRecord) limitRecord {
	l.mu.Lock()
	defer l.mu.Unlock()
	if was, is := l.left[rec.Device]; is {
		rec.Before = append(append(rec.Before, was.Before...), was.Limits)
		rec.Groups = union(rec.Groups, was.Groups)
	}
	l.left[rec.Device] = rec
	return rec
}

// clearLeft tries again to take away what was left.
func (l *limits) clearLeft(ctx context.Context) {
	for _, rec := range l.leftovers() {
		err := l.takeAway(rec)
		if err == nil {
			l.mu.Lock()
			delete(l.left, rec.Device)
			l.mu.Unlock()
			err = l.db.Put(ctx, map[string]any{"left/" + rec.Device.String(): nil})
		}
		if err != nil && !errors.Is(err, errNotNow) {
			l.logger.WithError(err).WithField("device", rec.Device).Error("limit of a volume that is not there any more was not taken away")
		}
	}
}

func (l *limits) leftovers() (list []limitRecord) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, rec := range l.left {
		list = append(list, rec)
	}
	return list
}

// errNotNow is that nothing of this host's limits can be read or changed since this start.
var errNotNow = errors.New("no limit can be taken away since this start")

// takeAway takes away what is as a record says that it was set, value by value: somebody may
// have set others for who has that number now. What another volume's device is now holds what
// that is told, in the groups that it names.
func (l *limits) takeAway(rec limitRecord) error {
	if rec.Boot != l.boot {
		return nil
	}
	if l.why != nil {
		return errNotNow
	}
	groups := rec.Groups
	for _, e := range l.all() {
		if e.device() == rec.Device {
			e.mu.Lock() // it names no more of them meanwhile
			defer e.mu.Unlock()
			groups = slices.DeleteFunc(slices.Clone(groups), func(g string) bool { return slices.Contains(e.rec.Groups, g) })
			break
		}
	}
	var errs []error
	for _, g := range groups {
		has, err := l.hierarchy.Get(g, rec.Device)
		if rest := has.Without(append(rec.Before, rec.Limits)...); err == nil && rest != has {
			err = l.hierarchy.Set(g, rec.Device, rest)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// disinherit takes away what holds already for the device that a dataset was just mounted
// from, which is its own: who had its number before has left it, of this host's agents one whose
// record is lost.
func (l *limits) disinherit(ctx context.Context, d dataset.Dataset) {
	dev, own, err := iolimit.DeviceOf(l.mounts.Path(d.ID))
	if err != nil || !own || l.why != nil {
		return
	}
	if e := l.get(d.ID); e != nil && e.device() == dev {
		return
	}
	for _, g := range l.above() {
		has, err := l.hierarchy.Get(g, dev)
		if err == nil && has == (iolimit.Limits{}) {
			continue
		}
		log := l.log(d).WithField("group", g).WithField("device", dev)
		if err == nil {
			err = l.hierarchy.Clear(g, dev)
		}
		if err == nil {
			log.Warn("the number of its device had a limit that somebody has left: taken away")
			continue
		}
		log.WithError(err).Error("the number of its device may have a limit that somebody has left")
		rec := l.leaves(limitRecord{Boot: l.boot, Device: dev, Limits: has, Groups: []string{g}})
		if err := l.db.Put(ctx, map[string]any{"left/" + dev.String(): rec}); err != nil {
			log.WithError(err).Error("that is not on record")
		}
	}
	l.soon()
}
