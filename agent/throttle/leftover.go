package throttle

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

// Load takes in what was set before this start. What was set for a device that is
// another's now, or nobody's, is taken away: who got its number would inherit that. What is
// mounted still holds its limits from here on, also where a crash had left them lifted.
func (l *Limits) Load(ctx context.Context, recovered bool) error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	var errs []error
	var gone []*Limited
	err = errors.Join(
		l.DB.Each(ctx, "limits/", func(rest string, v []byte) error {
			e := &Limited{}
			var err error
			if e.id, err = uuid.Parse(rest); err != nil {
				return err
			}
			if err := json.Unmarshal(v, &e.Rec); err != nil {
				return err
			}
			m := table.At(l.Mounts.Path(e.id))
			if e.Rec.Boot == l.Boot && m != nil &&
				e.Rec.Device == (iolimit.Device{Major: uint32(m.Major), Minor: uint32(m.Minor)}) {
				l.put(e)
			} else {
				gone = append(gone, e)
			}
			return nil
		}),
		l.DB.Each(ctx, "left/", func(_ string, v []byte) error {
			var rec LimitRecord
			err := json.Unmarshal(v, &rec)
			l.left[rec.Device] = rec
			return err
		}))
	if err != nil {
		return err
	}
	for _, e := range gone {
		errs = append(errs, l.Strip(ctx, e.id, e.Rec))
	}
	l.ClearLeft(ctx)
	if recovered {
		errs = append(errs, l.sweep())
	}
	if l.Why == nil {
		errs = append(errs, l.imposeAll(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		l.Logger.WithError(err).Error("what limited the speed of volumes before this start is not as it should be")
	}
	for _, m := range table.Under(l.Mounts.Root()) {
		id, err := uuid.Parse(filepath.Base(m.Mountpoint))
		if d, known := l.Cache.Dataset(id); err == nil && known && d.Profile.QoS.Limited() {
			l.relimit(d)
		}
	}
	return nil
}

// imposeAll has all hold again what is on record, at a start. A guard that hangs is asked once for
// all of them: so long they would wait, each.
func (l *Limits) imposeAll(ctx context.Context) error {
	all, told := l.All(), map[string]any{}
	for _, e := range all {
		e.Rec.Lifted = time.Time{}
		told["limits/"+e.id.String()] = e.Rec
	}
	if err := l.DB.Put(ctx, told); err != nil {
		return err
	}
	fencing := l.Fence.Look()
	var errs []error
	for _, e := range all {
		errs = append(errs, l.impose(e, fencing))
	}
	return errors.Join(errs...)
}

// above returns the groups that rules are set on whoever uses a volume, whether or not they are
// there.
func (l *Limits) above() []string {
	if l.Hierarchy.Version == iolimit.V1 {
		return []string{iolimit.Root}
	}
	return l.parents
}

// sweep takes away what limits loop devices that have no file, where the agent's state was lost,
// and with it what it has set: of no use to anybody now, and whoever gets the number would have
// it. A number of any other device is not used again: its rules went with it.
func (l *Limits) sweep() error {
	if l.Why != nil {
		return nil
	}
	var errs []error
	for _, g := range l.above() {
		rules, err := l.Hierarchy.Rules(g)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for dev, has := range rules {
			if dev.Major != LoopMajor || has == (iolimit.Limits{}) || attached(dev) {
				continue
			}
			l.Logger.WithField("group", g).WithField("device",
				dev).Warn("a loop device without a file had a limit: taken away")
			errs = append(errs, l.Hierarchy.Clear(g, dev))
		}
	}
	return errors.Join(errs...)
}

// LoopMajor is the major device number of loop devices.
const LoopMajor = 7 // Documentation/admin-guide/devices.txt

// attached tells whether a loop device may have a file (Documentation/ABI/testing/sysfs-block-loop).
func attached(dev iolimit.Device) bool {
	_, err := os.Stat("/sys/dev/block/" + dev.String() + "/loop/backing_file")
	return !errors.Is(err, fs.ErrNotExist)
}

// End forgets the limits of a dataset that is mounted no more.
func (l *Limits) End(d dataset.Dataset) {
	l.miss(d.ID, nil)
	e := l.Get(d.ID)
	if e == nil {
		return
	}
	if err := l.unlimited(context.WithoutCancel(l.Ctx), e); err != nil {
		l.log(d).WithError(err).Error("limits of its speed were left over")
	}
}

// unlimited forgets the limits of a dataset, whose device it takes them away from.
func (l *Limits) unlimited(ctx context.Context, e *Limited) error {
	e.Mu.Lock()
	over, rec := e.over, e.Rec
	e.over = true
	e.Mu.Unlock()
	if over {
		return nil
	}
	l.mu.Lock()
	delete(l.Of, e.id)
	l.mu.Unlock()
	return l.Strip(ctx, e.id, rec)
}

// Strip takes away what was told of a device that is no more what a dataset lies on. What
// cannot be taken away stays on record, by the device.
func (l *Limits) Strip(ctx context.Context, id uuid.UUID, rec LimitRecord) error {
	told := map[string]any{"limits/" + id.String(): nil}
	err := l.takeAway(rec)
	if err != nil {
		told["left/"+rec.Device.String()] = l.Leaves(rec)
	}
	if errors.Is(err, errNotNow) {
		err = nil
	}
	return errors.Join(err, l.DB.Put(ctx, told))
}

// Leaves notes what is left on a device, with what was before.
func (l *Limits) Leaves(rec LimitRecord) LimitRecord {
	l.mu.Lock()
	defer l.mu.Unlock()
	if was, is := l.left[rec.Device]; is {
		rec.Before = append(append(rec.Before, was.Before...), was.Limits)
		rec.Groups = Union(rec.Groups, was.Groups)
	}
	l.left[rec.Device] = rec
	return rec
}

// ClearLeft tries again to take away what was left.
func (l *Limits) ClearLeft(ctx context.Context) {
	for _, rec := range l.Leftovers() {
		err := l.takeAway(rec)
		if err == nil {
			l.mu.Lock()
			delete(l.left, rec.Device)
			l.mu.Unlock()
			err = l.DB.Put(ctx, map[string]any{"left/" + rec.Device.String(): nil})
		}
		if err != nil && !errors.Is(err, errNotNow) {
			l.Logger.WithError(err).WithField("device",
				rec.Device).Error("limit of a volume that is not there any more was not taken away")
		}
	}
}

// Leftovers returns the rules of devices that are gone and that could not be removed yet.
func (l *Limits) Leftovers() (list []LimitRecord) {
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
func (l *Limits) takeAway(rec LimitRecord) error {
	if rec.Boot != l.Boot {
		return nil
	}
	if l.Why != nil {
		return errNotNow
	}
	groups := rec.Groups
	for _, e := range l.All() {
		if e.device() == rec.Device {
			e.Mu.Lock() // it names no more of them meanwhile
			defer e.Mu.Unlock()
			groups = slices.DeleteFunc(slices.Clone(groups),
				func(g string) bool { return slices.Contains(e.Rec.Groups, g) })
			break
		}
	}
	var errs []error
	for _, g := range groups {
		has, err := l.Hierarchy.Get(g, rec.Device)
		if rest := has.Without(append(rec.Before, rec.Limits)...); err == nil && rest != has {
			err = l.Hierarchy.Set(g, rec.Device, rest)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Disinherit takes away what holds already for the device that a dataset was just mounted
// from, which is its own: who had its number before has left it, of this host's agents one whose
// record is lost.
func (l *Limits) Disinherit(ctx context.Context, d dataset.Dataset) {
	dev, own, err := iolimit.DeviceOf(l.Mounts.Path(d.ID))
	if err != nil || !own || l.Why != nil {
		return
	}
	if e := l.Get(d.ID); e != nil && e.device() == dev {
		return
	}
	for _, g := range l.above() {
		has, err := l.Hierarchy.Get(g, dev)
		if err == nil && has == (iolimit.Limits{}) {
			continue
		}
		log := l.log(d).WithField("group", g).WithField("device", dev)
		if err == nil {
			err = l.Hierarchy.Clear(g, dev)
		}
		if err == nil {
			log.Warn("the number of its device had a limit that somebody has left: taken away")
			continue
		}
		log.WithError(err).Error("the number of its device may have a limit that somebody has left")
		rec := l.Leaves(LimitRecord{Boot: l.Boot, Device: dev, Limits: has, Groups: []string{g}})
		if err := l.DB.Put(ctx, map[string]any{"left/" + dev.String(): rec}); err != nil {
			log.WithError(err).Error("that is not on record")
		}
	}
	l.soon()
}
