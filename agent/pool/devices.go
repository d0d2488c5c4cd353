package pool

import (
	"context"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/dataset"
)

// CheckDevices refuses devices that cannot become a pool.
func (t *Pools) CheckDevices(ctx context.Context, name string, rec Record, kind backends.Kind) error {
	if len(rec.Devices) == 0 {
		return nil
	}
	if _, ok := kind.(backends.BlockDeviceKind); ok {
		return checkDistinct(name, rec.Devices)
	}
	var can []string
	for _, k := range t.Backends.Kinds() {
		if _, ok := k.(backends.BlockDeviceKind); ok && k.Available(ctx) == nil {
			can = append(can, k.Name())
		}
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"pool %s: backend %s cannot use devices: pass a path, or another backend (available: %s)", name,
		rec.Backend, dataset.FormatChoices(can))
}

// checkDistinct refuses a list that has the same device twice, under one name or under two. The backend reports a
// device that is absent.
func checkDistinct(name string, devices []string) error {
	seen := map[uint64]string{}
	for _, path := range devices {
		number, ok := deviceNumber(path)
		if !ok {
			continue
		}
		if first, twice := seen[number]; twice {
			return dataset.Errorf(dataset.ErrInvalid, "pool %s: %s and %s are the same device: pass it once", name,
				first, path)
		}
		seen[number] = path
	}
	return nil
}

// deviceNumber returns the number of a block device. It returns false if path is not a block device.
func deviceNumber(path string) (uint64, bool) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, false
	}
	return st.Rdev, true
}

// checkNotInOtherPool refuses devices that belong to another pool of this node, by the UUID on them.
func (t *Pools) checkNotInOtherPool(rec Record) error {
	for _, path := range rec.Devices {
		if _, ok := deviceNumber(path); !ok {
			continue // the backend reports its content
		}
		on := disk.PoolOn(path)
		t.mu.RLock()
		o := t.byID[on]
		t.mu.RUnlock()
		if o != nil && !o.Gone {
			return deviceInUse(dataset.ErrExists, path, o.Name)
		}
	}
	return nil
}

// withDeviceOwner returns err, or an error that names the pool which uses one of the devices. It compares the devices
// with those that each pool was made of. It cannot compare UUIDs, because some devices, such as those of a volume
// group, have none.
func (t *Pools) withDeviceOwner(rec Record, err error) error {
	kind := dataset.KindOf(err)
	if kind != dataset.ErrInUse && kind != dataset.ErrExists {
		return err
	}
	for _, path := range rec.Devices {
		number, block := deviceNumber(path)
		for _, o := range t.All() {
			same := func(had string) bool {
				is, ok := deviceNumber(had)
				return ok && is == number
			}
			if block && o.Storage != nil && slices.ContainsFunc(o.Record.Devices, same) {
				return deviceInUse(kind, path, o.Name)
			}
		}
	}
	return err
}

func deviceInUse(kind *dataset.Kind, device, pool string) error {
	return dataset.Errorf(kind, "device %s is part of pool %s: choose another one (drover pool inspect %s)",
		device, pool, pool)
}
