package hand

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/iolimit"
	"github.com/droverhq/drover/internal/mount"
)

// lift are limits of how fast a device may be, as they were before they were lifted: the
// agent's, and those that somebody else has set.
type lift struct {
	hierarchy iolimit.Hierarchy
	was       []lifted
}

// lifted is a limit of one control group, as markLimit has it.
type lifted struct {
	Device iolimit.Device `json:"device"`
	Group  string         `json:"group"`
	Limits iolimit.Limits `json:"limits"`
}

// unlimit takes the limits of its speed from the device of a dataset: a freeze writes out first
// what is in memory, and takes as long as the slowest of all control groups may write that.
// Whoever set them has them back after it, by limitAgain; should this process end before, by Undo.
func (t *Tool) unlimit(id uuid.UUID, dir *os.File) (l lift, err error) {
	dev, err := deviceOf(dir)
	if err != nil {
		return l, err
	}
	if l.hierarchy, err = hierarchy(); err != nil || l.hierarchy.Dir == "" {
		return l, err
	}
	return t.lift(id, l.hierarchy, dev)
}

// hierarchy is that which limits devices on this host; the zero value: none does.
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

// lift puts on record what limits a device, and takes that away then.
func (t *Tool) lift(id uuid.UUID, h iolimit.Hierarchy, dev iolimit.Device) (lift, error) {
	l := lift{hierarchy: h}
	found, err := h.Limiting(dev)
	errs := []error{err}
	for group, limits := range found {
		one := lifted{dev, group, limits}
		b, err := json.Marshal(one)
		if err == nil {
			err = t.note(id, mark{markLimit, string(b)})
		}
		if err == nil { // and one that could not be given back stays
			l.was = append(l.was, one)
			err = h.Clear(group, dev)
		}
		errs = append(errs, err)
	}
	return l, errors.Join(errs...)
}

// limitAgain gives back what unlimit took. What could not be given back stays on record.
func (t *Tool) limitAgain(id uuid.UUID, l lift) error {
	var errs []error
	for _, one := range l.was {
		err := one.again(l.hierarchy)
		if err == nil {
			var b []byte
			if b, err = json.Marshal(one); err == nil {
				err = t.unnote(id, mark{markLimit, string(b)})
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// again sets a limit again, but for what somebody has set since. A group that is gone limits
// nobody.
func (o lifted) again(h iolimit.Hierarchy) error {
	now, err := h.Get(o.Group, o.Device)
	if err == nil {
		err = h.Set(o.Group, o.Device, now.Or(o.Limits))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// undoLimit gives back what a hand that ended before has taken, while the dataset is on that
// device still: or else its number may be another's.
func (t *Tool) undoLimit(target Target, what string) error {
	var one lifted
	if err := json.Unmarshal([]byte(what), &one); err != nil {
		return err
	}
	t.mu.Lock()
	flushes := t.freezing[target.Dataset] != nil
	t.mu.Unlock()
	if flushes { // which gives it back then
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
	return one.again(h)
}
