package hand

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/iolimit"
	"github.com/droverhq/drover/internal/linux/mount"
)

// liftedLimits are the I/O limits of a device that are lifted during a freeze: those that the agent has
// set, and those of other programs.
type liftedLimits struct {
	hierarchy iolimit.Hierarchy
	limits    []liftedLimit
}

// liftedLimit is the limit of one control group. It is the content of a markLimit, as JSON.
type liftedLimit struct {
	Device iolimit.Device `json:"device"`
	Group  string         `json:"group"`
	Limits iolimit.Limits `json:"limits"`
}

// liftLimits removes the I/O limits from the device of a dataset before a freeze. A freeze first writes out the dirty
// pages of all control groups, and would have to wait for the slowest limit. liftedLimits.restore sets the limits
// again after the freeze. If this process ends before that, Undo sets them again.
func liftLimits(marks *markFiles, id uuid.UUID, dir *os.File) (l liftedLimits, err error) {
	dev, err := deviceOf(dir)
	if err != nil {
		return l, err
	}
	if l.hierarchy, err = hierarchy(); err != nil || l.hierarchy.Dir == "" {
		return l, err
	}
	return liftDevice(marks, id, l.hierarchy, dev)
}

// hierarchy returns the cgroup hierarchy that limits devices on this host, or the zero value if none does.
func hierarchy() (iolimit.Hierarchy, error) {
	table, err := mount.Table()
	if err != nil {
		return iolimit.Hierarchy{}, err
	}
	h, err := iolimit.Detect(table)
	if errors.Is(err, iolimit.ErrNone) {
		return iolimit.Hierarchy{}, nil
	}
	return h, err
}

func deviceOf(dir *os.File) (iolimit.Device, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return iolimit.Device{}, err
	}
	return iolimit.Device{Major: unix.Major(st.Dev), Minor: unix.Minor(st.Dev)}, nil
}

// liftDevice records each limit of a device and then removes it. A limit that cannot be recorded stays.
func liftDevice(marks *markFiles, id uuid.UUID, h iolimit.Hierarchy, dev iolimit.Device) (liftedLimits, error) {
	l := liftedLimits{hierarchy: h}
	found, err := h.LimitsOn(dev)
	errs := []error{err}
	for group, limits := range found {
		one := liftedLimit{dev, group, limits}
		b, err := json.Marshal(one)
		if err == nil {
			err = marks.add(id, mark{markLimit, string(b)})
		}
		if err == nil { // otherwise Undo could not restore it
			l.limits = append(l.limits, one)
			err = h.Clear(group, dev)
		}
		errs = append(errs, err)
	}
	return l, errors.Join(errs...)
}

// restore sets the limits again that liftLimits removed. The mark of a limit that cannot be set
// stays, so that Undo tries again.
func (l liftedLimits) restore(marks *markFiles, id uuid.UUID) error {
	var errs []error
	for _, one := range l.limits {
		err := one.restore(l.hierarchy)
		if err == nil {
			var b []byte
			if b, err = json.Marshal(one); err == nil {
				err = marks.remove(id, mark{markLimit, string(b)})
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// restore sets a limit again. A value that another program has set meanwhile stays. If the group does not
// exist any more, restore does nothing.
func (o liftedLimit) restore(h iolimit.Hierarchy) error {
	now, err := h.Get(o.Group, o.Device)
	if err == nil {
		err = h.Set(o.Group, o.Device, now.Or(o.Limits))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// undoLimit restores a limit that a hand removed and did not restore before it ended. It restores the limit only if
// the dataset is still mounted from that device, because another device may have the number by now.
func (f *freezer) undoLimit(target Target, what string) error {
	var one liftedLimit
	if err := json.Unmarshal([]byte(what), &one); err != nil {
		return err
	}
	if f.isFreezing(target.Dataset) { // the freeze under way restores the limit at its end
		return nil
	}
	table, err := mount.Table()
	if err != nil {
		return err
	}
	dev := func(path string) bool {
		e := table.At(path)
		return e != nil && one.Device == iolimit.Device{Major: uint32(e.Major), Minor: uint32(e.Minor)}
	}
	if !slices.ContainsFunc(target.Paths, dev) {
		return nil
	}
	h, err := hierarchy()
	if err != nil || h.Dir == "" {
		return err
	}
	return one.restore(h)
}
