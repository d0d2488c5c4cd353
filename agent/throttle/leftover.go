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

// Load reads the rules that were set before this start. A rule of a device that is gone, or that now belongs to
// something else, is removed, because the next user of the device number would inherit it. A dataset that is
// still mounted keeps its limits, also if a crash left them suspended.
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

// imposeAll sets all recorded rules again at a start. It asks the guard once for all of them: if the guard hangs,
// one question per rule would add up.
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

// above returns the groups that get a rule no matter which container uses a volume, whether they exist or not.
func (l *Limits) above() []string {
	if l.Hierarchy.Version == iolimit.V1 {
		return []string{iolimit.Root}
	}
	return l.parents
}

// sweep removes the rules of loop devices that have no file. It is called if the agent's database was lost, and
// with it the record of what was set. Such a rule is of no use to anybody, and the next user of the number would
// inherit it. Only loop devices reuse their numbers: a rule of another device goes with the device.
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

// attached reports whether a loop device may have a file (Documentation/ABI/testing/sysfs-block-loop).
func attached(dev iolimit.Device) bool {
	_, err := os.Stat("/sys/dev/block/" + dev.String() + "/loop/backing_file")
	return !errors.Is(err, fs.ErrNotExist)
}

// End removes the limits of a dataset that is no longer mounted.
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

// unlimited removes the limits of a dataset, and its rules from the device.
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

// Strip removes the rules of a device that no longer belongs to the dataset. A rule that cannot be removed stays
// recorded under the device.
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

// Leaves records the rules that are left on a device, together with those recorded before.
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

// ClearLeft tries again to remove the rules that are left.
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

// errNotNow says that none of this host's limits could be read or changed since this start.
var errNotNow = errors.New("no limit can be taken away since this start")

// takeAway removes rules as the record says that they were set, value by value, because somebody else may have
// set other values for the present user of the device number. If the device now belongs to another volume, its
// groups get the rules of that volume.
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
			e.Mu.Lock() // its groups do not change meanwhile
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

// Disinherit removes rules that already exist for the device from which a dataset was just mounted. They come
// from an earlier user of the number, such as an agent on this host whose record is lost.
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
