package throttle

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"sync"

	"github.com/droverhq/drover/internal/linux/iolimit"
	"github.com/google/uuid"
)

// Leftovers removes the rules of devices that no longer belong to a limited dataset. Otherwise the next dataset with
// the same device number would inherit the rules. Rules that could not be removed are recorded, and removed by a
// later attempt.
type Leftovers struct {
	throttler *Throttler

	// writing is held from a change of byDevice until the change is in the database, so that both get the changes in
	// the same order. It is locked before mu.
	writing  sync.Mutex
	mu       sync.Mutex
	byDevice map[iolimit.Device]LimitRecord
}

// load reads the recorded leftovers from the database.
func (l *Leftovers) load(ctx context.Context) error {
	return l.throttler.DB.Each(ctx, "left/", func(_ string, v []byte) error {
		var rec LimitRecord
		err := json.Unmarshal(v, &rec)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.byDevice[rec.Device] = rec
		return err
	})
}

// isEmpty reports whether no rule is left over.
func (l *Leftovers) isEmpty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.byDevice) == 0
}

// Remove removes the rules of a device that no longer belongs to the dataset. A rule that cannot be removed stays
// recorded under the device.
func (l *Leftovers) Remove(ctx context.Context, id uuid.UUID, rec LimitRecord) error {
	values := map[string]any{"limits/" + id.String(): nil}
	err := l.removeRules(rec)
	if err != nil {
		l.writing.Lock()
		defer l.writing.Unlock()
		values["left/"+rec.Device.String()] = l.add(rec)
	}
	if errors.Is(err, errUnavailable) {
		err = nil
	}
	return errors.Join(err, l.throttler.DB.Put(ctx, values))
}

// Record adds rules to those that are recorded for a device.
func (l *Leftovers) Record(ctx context.Context, rec LimitRecord) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	return l.throttler.DB.Put(ctx, map[string]any{"left/" + rec.Device.String(): l.add(rec)})
}

// add is Record in memory only. It returns all rules that are left on the device. The caller holds l.writing.
func (l *Leftovers) add(rec LimitRecord) LimitRecord {
	l.mu.Lock()
	defer l.mu.Unlock()
	if was, is := l.byDevice[rec.Device]; is {
		rec.Earlier = append(append(rec.Earlier, was.Earlier...), was.Limits)
		rec.Groups = Union(rec.Groups, was.Groups)
	}
	l.byDevice[rec.Device] = rec
	return rec
}

// Clear tries again to remove the recorded rules. A record to which rules were added meanwhile stays for the next
// attempt.
func (l *Leftovers) Clear(ctx context.Context) {
	for _, rec := range l.List() {
		err := l.removeRules(rec)
		if err == nil {
			err = l.forget(ctx, rec)
		}
		if err != nil && !errors.Is(err, errUnavailable) {
			l.throttler.Log.WithError(err).WithField("device",
				rec.Device).Error("cannot remove the limit of a volume that no longer exists")
		}
	}
}

// forget removes a record, unless it has changed.
func (l *Leftovers) forget(ctx context.Context, rec LimitRecord) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	unchanged := reflect.DeepEqual(l.byDevice[rec.Device], rec)
	if unchanged {
		delete(l.byDevice, rec.Device)
	}
	l.mu.Unlock()
	if !unchanged {
		return nil
	}
	return l.throttler.DB.Put(ctx, map[string]any{"left/" + rec.Device.String(): nil})
}

// List returns the rules of former devices that could not be removed yet.
func (l *Leftovers) List() (list []LimitRecord) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, rec := range l.byDevice {
		list = append(list, rec)
	}
	return list
}

// errUnavailable is returned if this host had no usable hierarchy of control groups when the agent started.
var errUnavailable = errors.New("no limit could be removed since this start")

// removeRules removes the values in the record from the rules of its device. Other values stay, because another program
// may have set them for the present user of the device number. If another volume has the device number now, the rules
// of that volume's groups stay.
func (l *Leftovers) removeRules(rec LimitRecord) error {
	if rec.Boot != l.throttler.Boot {
		return nil
	}
	if l.throttler.HierarchyProblem != nil {
		return errUnavailable
	}
	groups := rec.Groups
	for _, e := range l.throttler.All() {
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
		has, err := l.throttler.Hierarchy.Get(g, rec.Device)
		if rest := has.Without(append(rec.Earlier, rec.Limits)...); err == nil && rest != has {
			err = l.throttler.Hierarchy.Set(g, rec.Device, rest)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// removeOrphanedRules removes the rules of loop devices that have no file. It is called if the agent's database,
// which has the record of the rules, was lost. Otherwise the next dataset with the same device number would inherit
// such a rule. Other devices need no check: only loop devices reuse their numbers, and a rule of another device
// disappears with the device.
func (l *Leftovers) removeOrphanedRules() error {
	if l.throttler.HierarchyProblem != nil {
		return nil
	}
	var errs []error
	for _, g := range l.throttler.baseGroups() {
		rules, err := l.throttler.Hierarchy.Rules(g)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for dev, has := range rules {
			if dev.Major != LoopMajor || has == (iolimit.Limits{}) || mayBeAttached(dev) {
				continue
			}
			l.throttler.Log.WithField("group", g).WithField("device",
				dev).Warn("removed a limit from a loop device without a file")
			errs = append(errs, l.throttler.Hierarchy.Clear(g, dev))
		}
	}
	return errors.Join(errs...)
}

// LoopMajor is the major device number of loop devices.
const LoopMajor = 7 // Documentation/admin-guide/devices.txt

// mayBeAttached reports whether a loop device may have a backing file (Documentation/ABI/testing/sysfs-block-loop).
func mayBeAttached(dev iolimit.Device) bool {
	_, err := os.Stat("/sys/dev/block/" + dev.String() + "/loop/backing_file")
	return !errors.Is(err, fs.ErrNotExist)
}
