package lvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/dm"
	"github.com/droverhq/drover/internal/fsctl"
	"github.com/droverhq/drover/internal/mount"
	"github.com/droverhq/drover/internal/run"
)

const (
	recordsSize  = 256 * dataset.MiB
	formattedTag = "drover.formatted" // of the records' volume: mkfs has ended

	// What of a volume group's free bytes is the thin pool's. Metadata take 64 bytes a block
	// and snapshot, cannot shrink, and have a spare of their size; the rest is for growing
	// them, and for lvconvert --repair.
	poolShare   = 97 // in a hundred
	minMetadata = 8 * dataset.MiB
	maxMetadata = 4 * dataset.GiB
	mappings    = 4 * 64 // bytes of metadata a block, at least: for four snapshots that share nothing

	smallestBlock = 64 * dataset.KiB
	minData       = 256 * dataset.MiB

	mkfsTimeout = 5 * time.Minute
)

// open finds the pool, or makes it, and mounts its records.
func (p *Pool) open(ctx context.Context, cfg backends.Config) error {
	g, all, err := p.tool.look(ctx, p.vg)
	if errors.Is(err, errAbsent) {
		g, all, err = p.makeGroup(ctx, &cfg)
	}
	if err != nil {
		return err
	}
	if g.Missing > 0 {
		return dataset.Errorf(dataset.ErrOffline, "volume group %s lacks %d of its disks (pvs shows which): nothing in it is touched", p.vg, g.Missing)
	}
	p.extent = g.Extent
	id, err := p.claim(ctx, g, all, cfg)
	if err != nil {
		return err
	}
	cfg.ID, cfg.Path = id, cfg.Mount
	if err := p.ready(ctx, g, all, cfg); err != nil {
		return err
	}
	if err := p.mountRecords(ctx, cfg.Mount); err != nil {
		return err
	}
	if p.shelf, err = shelf.Open(cfg, Name); err != nil {
		return errors.Join(err, p.unmountRecords(cfg.Mount))
	}
	p.shelf.Destroy = p.destroy
	if err := p.declare(); err != nil {
		return errors.Join(err, p.Close())
	}
	return nil
}

// makeGroup makes the volume group of a new pool from empty devices.
func (p *Pool) makeGroup(ctx context.Context, cfg *backends.Config) (group, map[string]volume, error) {
	if !cfg.Make {
		return group{}, nil, dataset.Errorf(dataset.ErrOffline, "there is no volume group %s (vgs shows those that are here; is its disk?)", p.vg)
	}
	// LVM leaves an empty directory where no udev runs.
	if names, err := os.ReadDir(p.path); len(names) > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
		return group{}, nil, dataset.Errorf(dataset.ErrExists, "something that is no volume group has the name %s", p.path)
	}
	if len(cfg.Devices) == 0 {
		return group{}, nil, dataset.Errorf(dataset.ErrInvalid, "there is no volume group %s: make it (vgcreate %s DEVICE), or name the devices that drover may make it of", p.vg, p.vg)
	}
	for _, dev := range cfg.Devices {
		if err := empty(dev); err != nil {
			return group{}, nil, err
		}
	}
	if cfg.ID == uuid.Nil {
		cfg.ID = uuid.New()
	}
	// Not -y: whatever LVM finds on a device after all, it asks about, and nobody answers.
	args := append([]string{"--addtag", poolTag + cfg.ID.String(), p.vg}, cfg.Devices...)
	if err := p.tool.lvm(ctx, "vgcreate", args...); err != nil {
		return group{}, nil, err
	}
	p.step("lvm.group.made")
	return p.tool.look(ctx, p.vg)
}

// empty refuses a device that holds something, or that somebody has open.
func empty(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return dataset.Errorf(dataset.ErrInvalid, "bad device %q: want an absolute path without . and ..", path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return dataset.Errorf(dataset.ErrInvalid, "device %s: %w", path, err)
	}
	if info.Mode()&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
		return dataset.Errorf(dataset.ErrInvalid, "%s is no block device", path)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		return dataset.Errorf(dataset.ErrInUse, "device %s is in use (lsblk %s): %w", path, path, err)
	}
	defer f.Close()
	content, err := fsctl.Identify(path)
	if err != nil {
		return err
	}
	if content != fsctl.Empty {
		return dataset.Errorf(dataset.ErrExists, "device %s holds %s, and was left as it is (wipefs -a %s when that is of no use)", path, content, path)
	}
	return nil
}

// claim returns the UUID of the pool that a volume group is, and makes it one if that is
// wanted.
func (p *Pool) claim(ctx context.Context, g group, all map[string]volume, cfg backends.Config) (uuid.UUID, error) {
	refusal := dataset.ErrOffline
	if cfg.Make {
		refusal = dataset.ErrExists
	}
	for _, tag := range g.Tags {
		text, ok := strings.CutPrefix(tag, poolTag)
		if !ok {
			continue
		}
		id, err := uuid.Parse(text)
		if err != nil {
			return uuid.Nil, dataset.Errorf(dataset.ErrExists, "volume group %s has the tag %s, which names no pool", p.vg, tag)
		}
		if cfg.ID != uuid.Nil && cfg.ID != id {
			return uuid.Nil, dataset.Errorf(refusal, "volume group %s is pool %s, not %s", p.vg, id, cfg.ID)
		}
		return id, nil
	}
	switch {
	case !cfg.Make:
		return uuid.Nil, dataset.Errorf(dataset.ErrOffline, "volume group %s is no pool of drover's (drover pool create makes one of what is free in it)", p.vg)
	case len(cfg.Devices) > 0:
		return uuid.Nil, dataset.Errorf(dataset.ErrExists, "there is a volume group %s, and drover did not make it: choose another name, or leave the devices out to have what is free in it", p.vg)
	}
	for name := range all {
		if strings.HasPrefix(name, namePrefix) {
			return uuid.Nil, dataset.Errorf(dataset.ErrExists, "volume group %s has a volume %s, and is no pool of drover's: it is left alone", p.vg, name)
		}
	}
	if _, err := p.plan(g.Free-recordsSize, 1); err != nil {
		return uuid.Nil, err
	}
	id := cfg.ID
	if id == uuid.Nil {
		id = uuid.New()
	}
	return id, p.tool.lvm(ctx, "vgchange", "--addtag", poolTag+id.String(), p.vg)
}

// ready has the pool's own two volumes made, as far as they are not, and active.
func (p *Pool) ready(ctx context.Context, g group, all map[string]volume, cfg backends.Config) error {
	records, pool := all[recordsName], all[poolName]
	formatted := slices.Contains(records.Tags, formattedTag)
	switch {
	case formatted && pool.Name != "":
	case !cfg.Make:
		return dataset.Errorf(dataset.ErrOffline, "volume group %s was tagged as a pool, but the pool in it was not made to the end", p.vg)
	default:
		var err error
		if all, err = p.finish(ctx, g, records, pool, max(1, len(cfg.Devices))); err != nil {
			return err
		}
		pool = all[poolName]
	}
	if pool.Kind != "thin-pool" || !slices.Contains(pool.Tags, ourTag) {
		return dataset.Errorf(dataset.ErrExists, "%s/%s is a %s that drover did not make", p.vg, poolName, pool.Kind)
	}
	p.chunk = pool.Chunk
	if pool.WhenFull != "error" {
		if err := p.tool.lvm(ctx, "lvchange", "--errorwhenfull", "y", p.ref(poolName)); err != nil {
			return err
		}
	}
	if _, err := p.activate(ctx, recordsName); err != nil {
		return err
	}
	if _, err := p.usage(ctx); err != nil {
		return err
	}
	return p.wake(ctx, all)
}

// finish makes what a new pool lacks.
func (p *Pool) finish(ctx context.Context, g group, records, pool volume, stripes int) (map[string]volume, error) {
	if !slices.Contains(records.Tags, formattedTag) {
		if err := p.makeRecords(ctx, records.Name != ""); err != nil {
			return nil, err
		}
		p.step("lvm.records.made")
	}
	if pool.Name == "" {
		if records.Name == "" {
			g.Free -= p.roundUp(recordsSize)
		}
		if err := p.makePool(ctx, g.Free, stripes); err != nil {
			return nil, err
		}
		p.step("lvm.pool.made")
	}
	return p.tool.volumes(ctx, p.vg)
}

// makeRecords makes the volume for the records. One that was not formatted to the end never
// had any.
func (p *Pool) makeRecords(ctx context.Context, there bool) error {
	if !there {
		size := bytesText(p.roundUp(recordsSize))
		if err := p.tool.lvm(ctx, "lvcreate", "--yes", "--type", "linear", "--size", size, "--wipesignatures", "y", "--addtag", ourTag, "--name", recordsName, p.vg); err != nil {
			return err
		}
	}
	dev, err := p.activate(ctx, recordsName)
	if err != nil {
		return err
	}
	node, err := p.node(ctx, dev)
	if err != nil {
		return err
	}
	// A record is a file of some hundred bytes.
	args := []string{"-q", "-F", "-b", "4096", "-i", "8192", "-m", "0", "-e", "remount-ro", node}
	if _, err := p.runner.Run(ctx, run.Command{Name: "mkfs.ext4", Args: args, Timeout: mkfsTimeout}); err != nil {
		return err
	}
	return p.tool.lvm(ctx, "lvchange", "--addtag", formattedTag, p.ref(recordsName))
}

// layout is how a thin pool is made.
type layout struct{ data, metadata, block dataset.Size }

// plan decides it for so many free bytes, on so many devices side by side.
func (p *Pool) plan(free dataset.Size, stripes int) (layout, error) {
	l := layout{block: smallestBlock}
	l.metadata = p.roundUp(min(max(free/100, minMetadata), maxMetadata))
	l.data = (free - 2*l.metadata) / 100 * poolShare
	unit := p.extent * dataset.Size(stripes)
	l.data -= l.data % unit
	if l.data < minData {
		return l, dataset.Errorf(dataset.ErrNoSpace, "volume group %s has %s free: a pool takes at least %s", p.vg, max(0, free+recordsSize).Human(), (minData + recordsSize + 4*minMetadata).Human())
	}
	for l.data/l.block*mappings > l.metadata {
		l.block *= 2
	}
	return l, nil
}

// makePool makes the thin pool, in one command, of what is free.
func (p *Pool) makePool(ctx context.Context, free dataset.Size, stripes int) error {
	l, err := p.plan(free, stripes)
	if err != nil {
		return err
	}
	args := []string{
		"--yes", "--type", "thin-pool", "--size", bytesText(l.data), "--poolmetadatasize", bytesText(l.metadata),
		"--chunksize", bytesText(l.block), "--zero", "y", "--discards", "passdown",
		"--addtag", ourTag, "--name", poolName, p.vg,
	}
	if stripes > 1 {
		args = append([]string{"--stripes", strconv.Itoa(stripes), "--stripesize", "64k"}, args...)
	}
	err = p.tool.lvm(ctx, "lvcreate", args...)
	if err != nil && stripes > 1 && errors.Is(err, dataset.ErrNoSpace) {
		return p.makePool(ctx, free, 1) // the devices are of unlike sizes
	}
	return err
}

// mountRecords mounts the records, or finds them mounted from an earlier run.
func (p *Pool) mountRecords(ctx context.Context, at string) error {
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	dev, err := dm.Find(p.device(recordsName))
	if err != nil {
		return err
	}
	table, err := mount.Table()
	if err != nil {
		return err
	}
	if e := table.At(at); e != nil {
		if e.Major == int(dev.Major) && e.Minor == int(dev.Minor) {
			return nil
		}
		return dataset.Errorf(dataset.ErrOffline, "%s is mounted at %s, where the records of volume group %s belong", e.Source, at, p.vg)
	}
	node, err := p.node(ctx, dev)
	if err != nil {
		return err
	}
	err = mount.Mount(at, mount.Spec{Source: node, FSType: ext4, Options: []string{"noatime", "nodev", "nosuid", "noexec"}})
	if err != nil {
		return dataset.Errorf(dataset.ErrCorrupt, "%w (e2fsck /dev/%s may mend it; nothing was changed)", err, p.ref(recordsName))
	}
	return nil
}

// unmountRecords unmounts them unless they are in use.
func (p *Pool) unmountRecords(at string) error {
	err := mount.Unmount(at)
	if errors.Is(err, mount.ErrBusy) || errors.Is(err, mount.ErrNotMounted) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Close implements backends.Pool.
func (p *Pool) Close() error { return p.unmountRecords(p.shelf.Path()) }

// ref is how lvm(8) is told of a volume.
func (p *Pool) ref(name string) string { return p.vg + "/" + name }

// roundUp makes a size a whole number of extents.
func (p *Pool) roundUp(size dataset.Size) dataset.Size {
	return (size + p.extent - 1) / p.extent * p.extent
}

func bytesText(size dataset.Size) string { return fmt.Sprintf("%db", int64(size)) }
