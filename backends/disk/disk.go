// Package disk makes, finds and mounts the filesystem of a pool that has whole devices. Backends btrfs, dir and loop
// call [Open] when such a pool is opened, and keep the [Disk] as long as the pool is open. Backends lvm and zfs use
// only the checks of devices, and the agent (agent/pool) calls only PoolOn. A Disk does not change after Open. The
// package keeps no other state than the mount itself. Which devices can become a pool is decided in vacant.go, and
// which devices belong to a pool in members.go.
//
// # How a pool is identified
//
// The UUID of the filesystem is the UUID of the pool, and its label is "drover-pool". So a crash between making the
// filesystem and making the pool in it needs no separate record: the filesystem itself says for which pool it was made.
// Open examines all devices of the host, because their names may change at a boot. If a device is absent, the pool is
// offline. If a device has a copy, the pool is offline unless it is mounted already from its configured devices. Drover
// never makes a new filesystem for an existing pool.
//
// # What a crash leaves
//
// A filesystem that mkfs did not finish has the label and a mark that it is unfinished (superblock.unfinished). It was
// never mounted, so Open makes it again. A filesystem that is finished and empty is used for the new pool, whose UUID
// is then that of the filesystem.
package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/steps"
)

const (
	label     = "drover-pool"
	identity  = "pool.json" // the marker file, which every pool has
	minSize   = 512 * dataset.MiB
	mkfsLimit = 30 * time.Minute
	busyTries = 100
	busyPause = 10 * time.Millisecond
	maxListed = 3 // how many names an error lists
)

// Disk is the mounted filesystem of one pool on separate devices.
type Disk struct {
	ID      uuid.UUID // the filesystem's, and the pool's
	Devices []string  // with their present names
	mount   string
}

// Open mounts the filesystem of a pool at cfg.Mount. kind is fsctl.XFS or fsctl.Btrfs. Open tries each set of mount
// options until the kernel accepts one. If the kernel accepts none, Open mounts the filesystem without them.
func Open(ctx context.Context, runner run.Runner, cfg backends.Config, kind fsctl.Kind, options ...[]string) (*Disk,
	error) {
	if cfg.Mount == "" || cfg.Path != cfg.Mount || cfg.Image > 0 {
		return nil, dataset.Errorf(dataset.ErrInvalid,
			"drover chooses where a pool on devices is mounted: omit its path and image")
	}
	for _, device := range cfg.Devices {
		if err := checkPath(device); err != nil {
			return nil, err
		}
	}
	if kind == fsctl.XFS && len(cfg.Devices) > 1 && cfg.Make {
		return nil, dataset.Errorf(dataset.ErrUnsupported,
			"XFS uses one device, and cannot be striped over %s: pass one device, or use backend btrfs, lvm or "+
				"zfs, or a RAID of them", strings.Join(cfg.Devices, " and "))
	}
	id, isNew, err := cfg.ID, false, error(nil)
	if cfg.Make {
		id, isNew, err = makeFilesystem(ctx, runner, cfg, kind)
	} else if id == uuid.Nil {
		id, err = filesystemUUID(cfg.Devices[0], kind)
	}
	if err != nil {
		return nil, err
	}
	d := &Disk{ID: id, Devices: mountedDevices(id, kind, cfg.Mount), mount: cfg.Mount}
	if d.Devices == nil {
		if d.Devices, err = members(id, kind, cfg.Devices); err != nil {
			return nil, err
		}
	}
	steps.At("disk.formed")
	if cfg.Make && !isNew {
		if err := d.checkUnusedReadOnly(kind, cfg); err != nil {
			return nil, err
		}
	}
	if err := d.attach(ctx, kind, options); err != nil {
		return nil, err
	}
	steps.At("disk.mounted")
	if cfg.Make && !isNew {
		if err := d.checkUnused(cfg); err != nil {
			return nil, errors.Join(err, d.Close())
		}
	}
	return d, nil
}

// makeFilesystem returns the UUID of the filesystem on the devices of a new pool, and whether it made that filesystem
// now.
func makeFilesystem(ctx context.Context, runner run.Runner, cfg backends.Config, kind fsctl.Kind) (
	id uuid.UUID, fresh bool, err error) {
	found := map[uuid.UUID]bool{}
	force, blank := false, 0
	for _, device := range cfg.Devices {
		node, err := resolve(device)
		if err == nil {
			_, err = statBlockDevice(node)
		}
		if err != nil {
			return id, false, err
		}
		sb, err := readSuperblock(node)
		if err != nil {
			return id, false, err
		}
		switch labelled := sb.kind == kind && sb.label == label; {
		case labelled && !sb.unfinished:
			id = sb.id
			found[id] = true
			continue
		case labelled:
			force = true
			_, err = checkNotInUse(device)
		default:
			err = checkVacant(device)
		}
		if err != nil {
			return id, false, err
		}
		blank++
	}
	switch {
	case len(found) > 1 || (len(found) == 1 && blank > 0):
		return id, false, dataset.Errorf(dataset.ErrExists,
			"some of %s have the filesystem of a pool, but not all have the same one: they were not changed "+
				"(drover pool adopt DEVICE adopts one; blkdiscard -z -f DEVICE overwrites a device with zeros)",
			strings.Join(cfg.Devices, ", "))
	case len(found) == 1:
		return id, false, nil
	}
	if err := CheckTotalSize(cfg.Devices, minSize); err != nil {
		return id, false, err
	}
	if id = cfg.ID; id == uuid.Nil {
		id = uuid.New()
	}
	return id, true, mkfs(ctx, runner, cfg.Devices, kind, id, force)
}

func mkfs(ctx context.Context, runner run.Runner, devices []string, kind fsctl.Kind, id uuid.UUID, force bool) error {
	var nodes []string
	for _, device := range devices {
		node, err := resolve(device)
		if err != nil {
			return err
		}
		if slices.Contains(nodes, node) {
			return dataset.Errorf(dataset.ErrInvalid, "%s is listed twice", node)
		}
		nodes = append(nodes, node)
	}
	args := []string{"-q", "-L", label}
	if force { // without -f, mkfs looks for content too
		args = append(args, "-f")
	}
	pkg := "xfsprogs"
	switch kind {
	case fsctl.Btrfs:
		pkg = "btrfs-progs"
		args = append(args, "-U", id.String())
		if len(nodes) > 1 {
			args = append(args, "-d", "raid0", "-m", "raid1")
		}
	default:
		args = append(args, "-s", "size=4096", "-m", "reflink=1,uuid="+id.String())
	}
	name := "mkfs." + string(kind)
	if _, err := run.LookPath(name); err != nil {
		return dataset.Errorf(dataset.ErrUnsupported, "%s is not installed (apt-get install %s)", name, pkg)
	}
	_, err := runner.Run(ctx, run.Command{Name: name, Args: append(args, nodes...), Timeout: mkfsLimit})
	if err != nil {
		return fmt.Errorf("create the filesystem of the pool: %w", err)
	}
	return nil
}

// checkUnusedReadOnly fails if a filesystem that was found on the devices of a new pool is not empty. An earlier
// attempt to make the pool may have made the filesystem, but others may have used it since. checkUnusedReadOnly mounts
// the filesystem read-only and does not replay the log, because another host may have it mounted.
func (d *Disk) checkUnusedReadOnly(kind fsctl.Kind, cfg backends.Config) error {
	if cfg.ID == uuid.Nil {
		return nil // any existing pool is accepted
	}
	if at, err := d.mounted(); err != nil || at {
		return err
	}
	opts := []string{"norecovery", "nouuid"}
	if kind == fsctl.Btrfs {
		opts = append(d.deviceOptions(), "rescue=nologreplay")
	}
	root, err := mount.Detached(mount.Spec{Source: d.Devices[0], FSType: string(kind), Options: opts, ReadOnly: true})
	if err != nil {
		return inUse(err, d.Devices[0])
	}
	defer root.Close()
	return d.checkEmpty(safefile.Dir{File: root}, "")
}

// checkUnused checks the same as checkUnusedReadOnly, but on a filesystem that is mounted for use, so that its log was
// replayed.
func (d *Disk) checkUnused(cfg backends.Config) error {
	if cfg.ID == uuid.Nil {
		return nil
	}
	root, err := safefile.OpenDir(d.mount)
	if err != nil {
		return err
	}
	defer root.Close()
	return d.checkEmpty(root, "")
}

// checkEmpty fails with ErrExists if a directory has other content than the marker file and empty directories, which an
// interrupted attempt to make a pool leaves.
func (d *Disk) checkEmpty(dir safefile.Dir, dirName string) error {
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case dirName == "" && !e.IsDir() && strings.Contains(name, identity):
			continue
		case dirName == "" && e.IsDir():
			sub, err := dir.Sub(name)
			if err != nil {
				return err
			}
			err = errors.Join(d.checkEmpty(sub, name+"/"), sub.Close())
			if err != nil {
				return err
			}
		default:
			return dataset.Errorf(dataset.ErrExists,
				"%s has a drover pool, with %q in it: it was not changed (drover pool adopt %s adopts it)",
				strings.Join(d.Devices, " and "), dirName+name, d.Devices[0])
		}
	}
	return nil
}

// deviceOptions returns the mount options that name all devices of a btrfs.
func (d *Disk) deviceOptions() (options []string) {
	if len(d.Devices) > 1 {
		for _, device := range d.Devices {
			options = append(options, "device="+device)
		}
	}
	return options
}

// attach mounts the filesystem, or finds it mounted from an earlier run.
func (d *Disk) attach(ctx context.Context, kind fsctl.Kind, options [][]string) error {
	if err := os.MkdirAll(d.mount, 0o700); err != nil {
		return err
	}
	if at, err := d.mounted(); err != nil || at {
		return err
	}
	var err error
	for _, opts := range append(options, nil) {
		spec := mount.Spec{
			Source:  d.Devices[0],
			FSType:  string(kind),
			Options: append(append([]string{"noatime"}, d.deviceOptions()...), opts...),
		}
		err = mount.Mount(d.mount, spec)
		for try := 0; errors.Is(err, unix.EBUSY) && try < busyTries && ctx.Err() == nil; try++ {
			// A child that was just forked may still have a copy of the device that checkUnusedReadOnly opened.
			<-time.After(busyPause)
			err = mount.Mount(d.mount, spec)
		}
		if !errors.Is(err, unix.EINVAL) {
			break // only EINVAL can mean that this kernel lacks one of the options
		}
	}
	return inUse(err, d.Devices[0])
}

func inUse(err error, device string) error {
	if errors.Is(err, unix.EBUSY) {
		return dataset.Errorf(dataset.ErrInUse, "%s has another use on this host (lsblk %s): %w", device, device, err)
	}
	return err
}

// mounted reports whether the filesystem is mounted in its place. It fails with ErrOffline if something else is mounted
// there.
func (d *Disk) mounted() (bool, error) {
	table, err := mount.Table()
	if err != nil {
		return false, err
	}
	e := table.At(d.mount)
	if e == nil {
		return false, nil
	}
	node, err := resolve(e.Source)
	if err != nil || !slices.Contains(d.Devices, node) {
		return false, dataset.Errorf(dataset.ErrOffline, "%s is mounted at %s, where the pool of %s belongs",
			e.Source, d.mount, strings.Join(d.Devices, " and "))
	}
	return true, nil
}

// Note names the devices, for people.
func (d *Disk) Note() string { return "on " + strings.Join(d.Devices, " and ") }

// Remains describes the empty filesystem that stays on the devices of a removed pool. The next pool of the backend on
// these devices uses it.
func (d *Disk) Remains(backend string) string {
	var devices, wipe []string
	keep := "keep"
	if len(d.Devices) == 1 {
		keep = "keeps"
	}
	for _, device := range d.Devices {
		devices = append(devices, "--device "+device)
		wipe = append(wipe, "wipefs -a "+device+" && blkdiscard -z "+device) // both refuse a device in use
	}
	return fmt.Sprintf("%s %s an empty filesystem (drover pool create NAME --backend %s %s reuses it; for "+
		"another use: %s)",
		strings.Join(d.Devices, " and "), keep, backend, strings.Join(devices, " "), strings.Join(wipe, " && "))
}

// Close unmounts the filesystem unless it is in use. If the Disk is nil, Close does nothing.
func (d *Disk) Close() error {
	if d == nil {
		return nil
	}
	_, err := mount.UnmountUnused(d.mount)
	return err
}
