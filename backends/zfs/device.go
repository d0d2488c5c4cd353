package zfs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
)

// A pool that Drover makes on devices has its own zpool, whose name contains the pool's UUID. So Drover finds the zpool
// after each boot, even if the names of the devices have changed, and never confuses it with another zpool.
//
// The zpool is in no cache file, so no other program imports it. Drover never uses -f.
const (
	zpoolProgram = "zpool"
	zpoolPrefix  = "drover-"

	zpoolLimit = 2 * time.Minute   // to create a zpool, or to search all devices for one
	trimLimit  = 12 * time.Hour    // for large disks
	noTrim     = "trim operations" // begins the error if a device or zpool(8) does not support trim
)

var _ backends.BlockDeviceKind = (*Backend)(nil)

// PathOf implements backends.BlockDeviceKind.
func (b *Backend) PathOf(_, mount string) string { return mount }

// ownPool is a mounted zpool that Drover made on devices of the operator.
type ownPool struct {
	id      uuid.UUID
	mount   string
	striped int // the number of devices without redundancy
}

func zpoolName(id uuid.UUID) string { return zpoolPrefix + id.String() }

func zpoolID(name string) uuid.UUID {
	id, err := uuid.Parse(strings.TrimPrefix(name, zpoolPrefix))
	if err != nil || zpoolName(id) != name {
		return uuid.Nil
	}
	return id
}

// openOwn opens the zpool of a pool on devices: it creates or imports the zpool, and mounts it.
func (b *Backend) openOwn(ctx context.Context, cfg backends.Config) (*ownPool, error) {
	if cfg.Mount == "" || cfg.Path != cfg.Mount {
		return nil, dataset.Errorf(dataset.ErrInvalid,
			"drover chooses where a pool on devices is mounted: omit its path")
	}
	id, blank, err := b.identify(cfg)
	switch {
	case err != nil:
		return nil, err
	case cfg.ID != uuid.Nil && id != uuid.Nil && id != cfg.ID && cfg.Make:
		return nil, dataset.Errorf(dataset.ErrExists, "%s: it has pool %s of drover, and was not changed",
			strings.Join(cfg.Devices, " and "), id)
	case cfg.Make && blank:
		if id = cfg.ID; id == uuid.Nil {
			id = uuid.New()
		}
		err = b.createZpool(ctx, id, cfg)
	case cfg.ID != uuid.Nil:
		id = cfg.ID // cfg.Devices do not have the pool: search all devices for it
	case id == uuid.Nil:
		err = dataset.Errorf(dataset.ErrOffline, "%s: no pool of drover found", strings.Join(cfg.Devices, " and "))
	}
	if err != nil {
		return nil, err
	}
	zpool := &ownPool{id: id, mount: cfg.Mount}
	if err := b.importPool(ctx, zpoolName(id)); err != nil {
		return nil, err
	}
	vdevs, err := b.zpool(ctx, "list", "-HvP", zpoolName(id))
	if err != nil {
		return nil, err
	}
	if cfg.Make { // this call made the marks, or an interrupted attempt did
		if err := unmarkDevice(cfg.Devices); err != nil {
			return nil, err
		}
	}
	zpool.striped = strings.Count(vdevs, "\t/") // each device has a line, because Drover makes no mirrors
	return zpool, zpool.attach()
}

// identify reads the labels of the devices and returns the ID of their pool. If cfg.Make is set, a device without a
// label of Drover must be empty. blank reports that no device has a label of Drover. If the devices belong to different
// pools and cfg.ID does not choose one, identify fails with dataset.ErrConflict.
func (b *Backend) identify(cfg backends.Config) (id uuid.UUID, blank bool, err error) {
	devicesByZpool := map[string][]string{}
	for _, device := range cfg.Devices {
		name, err := nameOnDisk(device)
		if err != nil && cfg.Make {
			return id, false, err
		}
		if zpoolID(name) == uuid.Nil {
			name = ""
			if cfg.Make {
				if err := checkVacant(device); err != nil {
					return id, false, err
				}
			}
		}
		devicesByZpool[name] = append(devicesByZpool[name], device)
	}
	if len(devicesByZpool) > 1 && cfg.Make {
		return id, false, dataset.Errorf(dataset.ErrExists,
			"some of %s have a pool of drover, but not all have the same one: they were not changed",
			strings.Join(cfg.Devices, " and "))
	}
	pools := slices.Sorted(maps.Keys(devicesByZpool))
	pools = slices.DeleteFunc(pools, func(name string) bool { return name == "" })
	if len(pools) > 1 && cfg.ID == uuid.Nil {
		return id, false, dataset.Errorf(dataset.ErrConflict, "%s belong to different pools of drover: %s",
			strings.Join(cfg.Devices, " and "), strings.Join(pools, " and "))
	}
	if len(pools) > 0 {
		id = zpoolID(pools[0])
	}
	return id, len(devicesByZpool[""]) == len(cfg.Devices), nil
}

// checkVacant returns an error unless a device is empty. It first removes the remains of an interrupted attempt.
func checkVacant(device string) error {
	err := disk.CheckVacant(device)
	if !errors.Is(err, dataset.ErrExists) {
		return err
	}
	switch done, rErr := reclaimDevice(device); {
	case rErr != nil:
		return fmt.Errorf("remove the remains of an earlier attempt from %s: %w", device, rErr)
	case done:
		return disk.CheckVacant(device)
	}
	return err
}

// createZpool creates the zpool. After a crash, the next call removes the remains. If zpool(8) fails, createZpool
// removes the remains itself. Otherwise the mark would stay on the device, and a much later call would take it for the
// remains of a crash.
func (b *Backend) createZpool(ctx context.Context, id uuid.UUID, cfg backends.Config) error {
	args := []string{
		"create", "-o", "ashift=12", "-o", "cachefile=none", "-o", "comment=drover pool " + cfg.Name,
		"-O", "compression=lz4", "-O", "atime=off", "-O", "xattr=sa", "-O", "acltype=posixacl", "-m", "legacy",
		zpoolName(id),
	}
	err := markDevice(cfg.Devices)
	if err == nil {
		if _, err = b.zpool(ctx, append(args, cfg.Devices...)...); err != nil {
			err = fmt.Errorf("create a zpool on %s: %w", strings.Join(cfg.Devices, " and "), unsupportedZFS(err))
		}
	}
	if err == nil {
		return nil
	}
	for _, device := range cfg.Devices {
		_, _ = reclaimDevice(device) // if this fails, the next attempt refuses the device with the reason
		_ = unmarkDevice([]string{device})
	}
	return err
}

// unsupportedZFS returns dataset.ErrUnsupported if zpool(8) does not know the properties of Drover's zpools. The
// zpool(8) of zfs-fuse does not know them, and mount(2) could not mount its zpools either. unsupportedZFS returns all
// other errors unchanged.
func unsupportedZFS(err error) error {
	var failed *run.Error
	if !errors.As(err, &failed) || !strings.Contains(failed.Stderr, "not a valid pool property") {
		return err
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"pools of devices need OpenZFS, and the zpool(8) of this host belongs to zfs-fuse, or is older (Debian, "+
			"from contrib: apt-get install zfsutils-linux zfs-dkms; or use --path on a filesystem of zfs-fuse)")
}

func (b *Backend) zpool(ctx context.Context, args ...string) (string, error) {
	res, err := b.runner.Run(ctx, run.Command{Name: zpoolProgram, Args: args, Timeout: zpoolLimit})
	return strings.TrimSpace(string(res.Stdout)), err
}

// importPool imports the zpool without mounting its filesystems. It returns dataset.ErrOffline with the message of
// zpool(8) if another host uses the zpool, or if it lacks a device.
func (b *Backend) importPool(ctx context.Context, name string) error {
	health, err := b.zpool(ctx, "list", "-H", "-o", "health", name)
	if err == nil {
		if health == "SUSPENDED" || health == "FAULTED" || health == "UNAVAIL" {
			return dataset.Errorf(dataset.ErrOffline, "zpool %s is %s (zpool status -v %s)", name,
				strings.ToLower(health), name)
		}
		return nil
	}
	var failed *run.Error
	if !errors.As(err, &failed) || !strings.Contains(failed.Stderr, "no such pool") {
		return err
	}
	_, err = b.zpool(ctx, "import", "-N", "-o", "cachefile=none", "-d", "/dev", name)
	if errors.As(err, &failed) && failed.ExitCode > 0 {
		return dataset.Errorf(dataset.ErrOffline, "%w (zpool import lists the available pools; drover does not "+
			"force an import)", err)
	}
	return err
}

// attach mounts the zpool, unless an earlier run has mounted it.
func (o *ownPool) attach() error {
	if err := os.MkdirAll(o.mount, 0o700); err != nil {
		return err
	}
	table, err := mount.Table()
	if err != nil {
		return err
	}
	if e := table.At(o.mount); e != nil {
		if e.Source != zpoolName(o.id) {
			return dataset.Errorf(dataset.ErrOffline, "%s is mounted at %s, where zpool %s belongs", e.Source,
				o.mount, zpoolName(o.id))
		}
		return nil
	}
	if err := mount.Mount(o.mount, mount.Spec{
		Source:  zpoolName(o.id),
		FSType:  fsType,
		Options: []string{"nodev", "nosuid"},
	}); err != nil {
		return err
	}
	return os.Chmod(o.mount, 0o700)
}

// Close unmounts the zpool unless it is in use. The zpool stays imported, because its datasets may be mounted.
func (o *ownPool) Close() error {
	if o == nil {
		return nil
	}
	_, err := mount.UnmountUnused(o.mount)
	return err
}

// note returns the part of Info.Note about the zpool, with a warning if it is a stripe.
func (o *ownPool) note() string {
	switch {
	case o == nil:
		return ""
	case o.striped > 1:
		return fmt.Sprintf("; on zpool %s, striped over %d devices: the loss of one device loses all "+
			"data", zpoolName(o.id),
			o.striped)
	}
	return "; on zpool " + zpoolName(o.id)
}
