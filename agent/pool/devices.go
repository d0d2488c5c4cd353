package pool

import (
	"context"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Configured is the configuration with which a recorded pool is opened.
func (r Record) Configured(name string, keys backends.Keys) backends.Config {
	return backends.Config{
		ID:      r.ID,
		Name:    name,
		Path:    r.Path,
		Image:   r.Image,
		Mount:   r.Mount,
		Devices: r.Devices,
		Keys:    keys,
	}
}

// Place fills in the path and the mount point of a pool, if the operator named none.
func (p *Pools) Place(name string, rec *Record) {
	// a path below /dev is no directory, so the backend has something to mount
	if rec.Image > 0 || len(rec.Devices) > 0 || Within(rec.Path, "/dev") {
		rec.Mount = p.ImageMount(name)
	}
	if rec.Path != "" || len(rec.Devices) == 0 {
		return
	}
	kind, err := p.Backends.Kind(rec.Backend)
	if former, ok := kind.(backends.BlockDeviceKind); ok && err == nil {
		rec.Path = former.PathOf(name, rec.Mount)
	}
}

// Formable refuses devices that cannot become a pool.
func (p *Pools) Formable(ctx context.Context, name string, rec Record, kind backends.Kind) error {
	if len(rec.Devices) == 0 {
		return nil
	}
	if _, ok := kind.(backends.BlockDeviceKind); ok {
		return onceEach(name, rec.Devices)
	}
	var can []string
	for _, k := range p.Backends.Kinds() {
		if _, ok := k.(backends.BlockDeviceKind); ok && k.Available(ctx) == nil {
			can = append(can, k.Name())
		}
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"pool %s: backend %s makes no pool of devices: give it a path, or another backend (have: %s)", name,
		rec.Backend, dataset.Have(can))
}

// onceEach refuses a list that has the same device twice, also under two names. The backend reports a device that
// is absent.
func onceEach(name string, devices []string) error {
	seen := map[uint64]string{}
	for _, path := range devices {
		number, ok := deviceNumber(path)
		if !ok {
			continue
		}
		if first, twice := seen[number]; twice {
			return dataset.Errorf(dataset.ErrInvalid, "pool %s: %s and %s are one device: give it once", name,
				first, path)
		}
		seen[number] = path
	}
	return nil
}

// deviceNumber returns the number of a block device; false if the path is none.
func deviceNumber(path string) (uint64, bool) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, false
	}
	return st.Rdev, true
}

// foreign refuses devices that belong to another pool of this node, by the UUID on them.
func (p *Pools) foreign(rec Record) error {
	for _, path := range rec.Devices {
		if _, ok := deviceNumber(path); !ok {
			continue // the backend reports its content
		}
		on := disk.PoolOn(path)
		p.mu.RLock()
		o := p.byID[on]
		p.mu.RUnlock()
		if o != nil && !o.Gone {
			return lies(dataset.ErrExists, path, o.Name)
		}
	}
	return nil
}

// whose adds to err the pool that has one of the devices. For devices without a UUID, such as those of a volume
// group, it compares with the devices that each pool was made of.
func (p *Pools) whose(rec Record, err error) error {
	kind := dataset.KindOf(err)
	if kind != dataset.ErrInUse && kind != dataset.ErrExists {
		return err
	}
	for _, path := range rec.Devices {
		number, block := deviceNumber(path)
		for _, o := range p.All() {
			same := func(had string) bool {
				is, ok := deviceNumber(had)
				return ok && is == number
			}
			if block && o.Storage != nil && slices.ContainsFunc(o.Record.Devices, same) {
				return lies(kind, path, o.Name)
			}
		}
	}
	return err
}

func lies(kind *dataset.Kind, device, pool string) error {
	return dataset.Errorf(kind, "device %s is one that pool %s lies on: give another one (drover pool inspect %s)",
		device, pool, pool)
}

// Asked is the record of a requested pool, without a UUID.
func (p *Pools) Asked(n api.NewPool) (Record, error) {
	rec := Record{Backend: n.Backend, Path: n.Path, Devices: n.Devices}
	for _, path := range append(slices.Clone(n.Devices), n.Path) {
		if path == "" && len(n.Devices) > 0 {
			continue
		}
		if clean := filepath.Clean("/" + path); clean != path {
			return rec, dataset.Errorf(dataset.ErrInvalid,
				"pool %s: path %q is not absolute and clean: want one such as %s", n.Name, path, clean)
		}
	}
	if n.Image != "" {
		if len(n.Devices) > 0 {
			return rec, dataset.Errorf(dataset.ErrInvalid, "pool %s: it lies in an image or on devices, not both",
				n.Name)
		}
		size, err := dataset.ParseSize(n.Image)
		if err != nil {
			return rec, err
		}
		rec.Image = size
	}
	p.Place(n.Name, &rec)
	return rec, nil
}
