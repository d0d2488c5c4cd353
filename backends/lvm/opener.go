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
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/disk"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/dm"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
)

const (
	// poolShare is the percentage of a volume group's free bytes that the thin pool takes. The metadata of the thin
	// pool takes 64 bytes for each block and snapshot, cannot shrink, and has a spare of the same size. The rest of the
	// group is for growing the metadata, and for lvconvert --repair.
	poolShare        = 97 // percent
	minMetadata      = 8 * dataset.MiB
	maxMetadata      = 4 * dataset.GiB
	metadataPerBlock = 4 * 64 // minimum bytes of metadata for each block: enough for four snapshots that share nothing

	smallestBlock = 64 * dataset.KiB
	minData       = 256 * dataset.MiB
	leastGroup    = minData + recordsSize + 4*minMetadata
)

// open finds the pool, or makes it, and mounts its records.
func (p *Pool) open(ctx context.Context, cfg backends.Config) error {
	g, all, err := p.tool.readGroup(ctx, p.vg)
	if errors.Is(err, errAbsent) {
		g, all, err = p.makeGroup(ctx, &cfg)
	}
	if err != nil {
		return err
	}
	if g.Missing > 0 {
		return dataset.Errorf(dataset.ErrOffline,
			"volume group %s lacks %d of its disks (pvs shows which): nothing in it is changed", p.vg, g.Missing)
	}
	p.extent = g.Extent
	id, err := p.identify(ctx, g, all, cfg)
	if err == nil && cfg.Make && len(cfg.Devices) > 0 {
		err = p.sameDisks(ctx, cfg.Devices)
	}
	if err != nil {
		return err
	}
	cfg.ID, cfg.Path = id, cfg.Mount
	if err := p.ensureVolumes(ctx, g, all, cfg); err != nil {
		return err
	}
	if err := p.mountRecords(ctx, cfg.Mount); err != nil {
		return err
	}
	if p.Shelf, err = shelf.Open(cfg, Name); err != nil {
		return errors.Join(err, p.unmountRecords(cfg.Mount))
	}
	p.Shelf.Destroy, p.Shelf.CheckUnused = p.destroy, p.checkFolderIdle
	if err := p.declare(); err != nil {
		return errors.Join(err, p.Close())
	}
	return nil
}

// makeGroup makes the volume group of a new pool from empty devices.
func (p *Pool) makeGroup(ctx context.Context, cfg *backends.Config) (group, map[string]volume, error) {
	if !cfg.Make {
		return group{}, nil, dataset.Errorf(dataset.ErrOffline,
			"no such volume group: %s (vgs lists the existing ones; is its disk connected?)", p.vg)
	}
	// Without udev, LVM leaves an empty directory behind.
	if names, err := os.ReadDir(p.path); len(names) > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
		return group{}, nil, dataset.Errorf(dataset.ErrExists, "the name %s belongs to something that is not a "+
			"volume group",
			p.path)
	}
	if len(cfg.Devices) == 0 {
		return group{}, nil, dataset.Errorf(dataset.ErrInvalid,
			"no such volume group: %s: create it (vgcreate %s DEVICE), or pass the devices from which drover may "+
				"create it", p.vg, p.vg)
	}
	for _, dev := range cfg.Devices {
		if err := disk.CheckVacant(dev); err != nil {
			return group{}, nil, err
		}
	}
	if err := disk.CheckTotalSize(cfg.Devices, leastGroup); err != nil { // before the group is made on them
		return group{}, nil, err
	}
	if cfg.ID == uuid.Nil {
		cfg.ID = uuid.New()
	}
	// -y is left out. If LVM finds content on a device after all, it asks for confirmation, and fails without an
	// answer.
	args := append([]string{"--addtag", poolTag + cfg.ID.String(), p.vg}, cfg.Devices...)
	if err := p.tool.lvm(ctx, "vgcreate", args...); err != nil {
		return group{}, nil, err
	}
	p.step("lvm.group.made")
	return p.tool.readGroup(ctx, p.vg)
}

// sameDisks fails unless the volume group is on the named devices.
func (p *Pool) sameDisks(ctx context.Context, devices []string) error {
	rows, err := p.tool.report(ctx, "vgs", "pv_name", p.vg)
	if err != nil {
		return err
	}
	var names []string
	for _, r := range rows {
		names = append(names, r["pv_name"])
	}
	groupDevices, err := numbers(names)
	if err != nil {
		return err
	}
	named, err := numbers(devices)
	if err != nil {
		return err
	}
	if !slices.Equal(groupDevices, named) {
		return dataset.Errorf(dataset.ErrExists,
			"volume group %s exists on %s, not on %s: it was not changed (choose another name, or pass the "+
				"devices that it has)",
			p.vg, strings.Join(names, " and "), strings.Join(devices, " and "))
	}
	return nil
}

// numbers returns the device numbers of devices, sorted, so that two lists of devices can be compared.
func numbers(devices []string) (all []uint64, err error) {
	for _, path := range devices {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return nil, dataset.Errorf(dataset.ErrInvalid, "device %s: %w", path, err)
		}
		all = append(all, st.Rdev)
	}
	slices.Sort(all)
	return all, nil
}

// identify returns the UUID of the pool in a volume group, which is in a tag of the group. If the group has no such tag
// and cfg.Make is set, identify adds the tag, which makes the group a new pool.
func (p *Pool) identify(ctx context.Context, g group, all map[string]volume, cfg backends.Config) (uuid.UUID, error) {
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
			return uuid.Nil, dataset.Errorf(dataset.ErrExists,
				"volume group %s has the tag %s, which names no pool", p.vg, tag)
		}
		if cfg.ID != uuid.Nil && cfg.ID != id {
			return uuid.Nil, dataset.Errorf(refusal, "volume group %s is pool %s, not %s (%s)", p.vg, id, cfg.ID,
				p.conflictAdvice(all, id, len(cfg.Devices) > 0))
		}
		return id, nil
	}
	switch {
	case !cfg.Make:
		return uuid.Nil, dataset.Errorf(dataset.ErrOffline,
			"volume group %s is not a pool of drover (drover pool create uses its free space)", p.vg)
	case len(cfg.Devices) > 0:
		return uuid.Nil, dataset.Errorf(dataset.ErrExists,
			"volume group %s exists, and drover did not create it: choose another name, or omit the devices to "+
				"use its free space", p.vg)
	}
	for name := range all {
		if strings.HasPrefix(name, namePrefix) {
			return uuid.Nil, dataset.Errorf(dataset.ErrExists,
				"volume group %s has a volume %s, and is not a pool of drover: it is not changed", p.vg, name)
		}
	}
	if _, err := p.planLayout(g.Free-recordsSize, 1); err != nil {
		return uuid.Nil, err
	}
	id := cfg.ID
	if id == uuid.Nil {
		id = uuid.New()
	}
	return id, p.tool.lvm(ctx, "vgchange", "--addtag", poolTag+id.String(), p.vg)
}

// conflictAdvice returns advice about a volume group that already contains another pool. onDevices reports that the
// request names devices, so the whole group was made for that pool.
func (p *Pool) conflictAdvice(all map[string]volume, id uuid.UUID, onDevices bool) string {
	switch {
	case slices.Contains(all[recordsName].Tags, formattedTag) && all[poolName].Name != "":
		return "drover pool adopt /dev/" + p.vg + " adopts it"
	case onDevices:
		return "its creation was interrupted, and it is empty: vgremove " + p.vg + ", then try again"
	}
	return fmt.Sprintf("its creation was interrupted, and it is empty: vgchange --deltag %s%s %s, lvremove those "+
		"of %s and %s that exist, then try again", poolTag, id, p.vg, p.ref(recordsName), p.ref(poolName))
}

// ensureVolumes makes the volume for the records and the thin pool if they are missing, and activates them if they are
// inactive. It makes a full thin pool fail writes at once, and resumes suspended volumes.
func (p *Pool) ensureVolumes(ctx context.Context, g group, all map[string]volume, cfg backends.Config) error {
	records, pool := all[recordsName], all[poolName]
	switch {
	case slices.Contains(records.Tags, formattedTag) && pool.Name != "":
	case !cfg.Make:
		return dataset.Errorf(dataset.ErrOffline,
			"volume group %s was tagged as a pool, but the creation of the pool was interrupted (repeat that "+
				"drover pool create to finish it)", p.vg)
	default:
		var err error
		if all, err = p.finishVolumes(ctx, cfg.ID, g, records, pool, max(1, len(cfg.Devices))); err != nil {
			return err
		}
		pool = all[poolName]
	}
	if pool.Kind != "thin-pool" || !slices.Contains(pool.Tags, ourTag) {
		return dataset.Errorf(dataset.ErrExists, "%s/%s is a %s that drover did not create", p.vg, poolName, pool.Kind)
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
	return p.resumeSuspended(ctx, all)
}

// finishVolumes makes the missing parts of a new pool.
func (p *Pool) finishVolumes(ctx context.Context, id uuid.UUID, g group, records, pool volume,
	stripes int) (map[string]volume, error) {
	if !slices.Contains(records.Tags, formattedTag) {
		if pool.Name != "" { // the thin pool is made after the records
			return nil, dataset.Errorf(dataset.ErrExists,
				"%s lacks the tag %s, but a thin pool exists: nothing was changed (if its records are intact: "+
					"lvchange --addtag %s %s)", p.ref(recordsName), formattedTag, formattedTag,
				p.ref(recordsName))
		}
		if err := p.makeRecords(ctx, id, records); err != nil {
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

// layout is the sizes of a thin pool's parts.
type layout struct{ data, metadata, block dataset.Size }

// planLayout returns the layout for a number of free bytes on a number of devices (stripes) of equal size.
func (p *Pool) planLayout(free dataset.Size, stripes int) (layout, error) {
	l := layout{block: smallestBlock}
	l.metadata = p.roundUp(min(max(free/100, minMetadata), maxMetadata))
	l.data = (free - 2*l.metadata) / 100 * poolShare
	unit := p.extent * dataset.Size(stripes)
	l.data -= l.data % unit
	if l.data < minData {
		return l, dataset.Errorf(dataset.ErrNoSpace, "volume group %s has %s free: a pool needs at least %s", p.vg,
			max(0, free+recordsSize).Human(), leastGroup.Human())
	}
	for l.data/l.block*metadataPerBlock > l.metadata {
		l.block *= 2
	}
	return l, nil
}

// makePool makes the thin pool from the free space of the group with one command. If the devices are too different for
// stripes, it makes the thin pool without stripes.
func (p *Pool) makePool(ctx context.Context, free dataset.Size, stripes int) error {
	l, err := p.planLayout(free, stripes)
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
		return p.makePool(ctx, free, 1) // the devices have different sizes
	}
	return err
}

// Close implements backends.Pool.
func (p *Pool) Close() error {
	err := p.dropUnused()
	if p.inSandbox {
		return err
	}
	return errors.Join(err, p.unmountRecords(p.Shelf.Path()))
}

func bytesText(size dataset.Size) string { return fmt.Sprintf("%db", int64(size)) }

const (
	recordsSize  = 256 * dataset.MiB
	formattedTag = "drover.formatted" // tag of the volume for the records; it says that mkfs has finished

	mkfsTimeout = 5 * time.Minute
)

// makeRecords makes the volume for the records of a pool. If the volume exists, makeRecords completes its formatting.
func (p *Pool) makeRecords(ctx context.Context, id uuid.UUID, existing volume) error {
	switch {
	case existing.Name == "":
		size := bytesText(p.roundUp(recordsSize))
		if err := p.tool.lvm(ctx, "lvcreate", "--yes", "--type", "linear", "--size", size, "--wipesignatures", "y",
			"--addtag", ourTag, "--name", recordsName, p.vg); err != nil {
			return err
		}
		p.step("lvm.records.created")
	case !slices.Contains(existing.Tags, ourTag):
		return dataset.Errorf(dataset.ErrExists, "drover did not create %s: it was not changed", p.ref(recordsName))
	}
	dev, err := p.activate(ctx, recordsName)
	if err != nil {
		return err
	}
	node, err := p.nodeOf(ctx, dev)
	if err != nil {
		return err
	}
	done, err := formatted(node, id)
	if err != nil {
		return fmt.Errorf("%s: %w", p.ref(recordsName), err)
	}
	if !done {
		// Records are files of some hundred bytes, so the filesystem gets as many inodes as blocks.
		args := []string{"-q", "-b", "4096", "-i", "4096", "-m", "0", "-e", "remount-ro", "-U", id.String(), node}
		if _, err := p.runner.Run(ctx, run.Command{Name: "mkfs.ext4", Args: args, Timeout: mkfsTimeout}); err != nil {
			return err
		}
		p.step("lvm.records.formatted")
	}
	return p.tool.lvm(ctx, "lvchange", "--addtag", formattedTag, p.ref(recordsName))
}

// formatted reports whether the volume for the records has its filesystem already, and refuses every other known
// content. Unknown content is accepted. It is older than the volume, or an interrupted mkfs left it: mkfs writes the
// superblock last.
func formatted(path string, id uuid.UUID) (bool, error) {
	content, err := fsctl.Known(path)
	if err != nil {
		return false, err
	}
	switch content {
	case fsctl.OtherData:
		return false, nil
	case fsctl.HoldsExt:
		f, err := os.Open(path)
		if err != nil {
			return false, err
		}
		defer f.Close()
		var found uuid.UUID
		if _, err := f.ReadAt(found[:], 1024+0x68); err != nil || found == id {
			return true, err
		}
	}
	return false, dataset.Errorf(dataset.ErrExists,
		"it contains %s that drover did not create, and was not changed (if it is not needed: lvremove it)", content)
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
		return dataset.Errorf(dataset.ErrOffline,
			"%s is mounted at %s, where the records volume of volume group %s belongs", e.Source, at, p.vg)
	}
	node, err := p.nodeOf(ctx, dev)
	if err != nil {
		return err
	}
	err = mount.Mount(at, mount.Spec{
		Source:  node,
		FSType:  ext4,
		Options: []string{"noatime", "nodev", "nosuid", "noexec"},
	})
	if err != nil {
		return dataset.Errorf(dataset.ErrCorrupt, "%w (e2fsck /dev/%s may repair it; nothing was changed)", err,
			p.ref(recordsName))
	}
	return nil
}

// unmountRecords unmounts the records unless they are in use.
func (p *Pool) unmountRecords(at string) error {
	_, err := mount.UnmountUnused(at)
	return err
}

// sandboxTag begins the tag of a volume whose pool is in a sandbox. A sandbox is a folder of another pool, in which a
// trial makes its pool (package trialdir). The tag ends with the UUID of the pool in the sandbox. The volume is in the
// thin pool of the outer pool.
const sandboxTag = "drover.corner="

// SeparateFolder implements backends.SeparateFolderKind. It returns where the records of a volume group are mounted.
func (b *Backend) SeparateFolder(path string) (string, error) {
	vg, ok := strings.CutPrefix(path, "/dev/")
	if !ok || !groupName.MatchString(vg) {
		return "", dataset.Errorf(dataset.ErrInvalid, "%s is not the path of a volume group", path)
	}
	dev, err := dm.Find(dm.Mangle(vg, recordsName))
	if err != nil {
		return "", dataset.Errorf(dataset.ErrOffline, "volume group %s is not active on this host: %w", vg, err)
	}
	table, err := mount.Table()
	if err != nil {
		return "", err
	}
	for _, m := range table.Of(int(dev.Major), int(dev.Minor)) {
		return m.Mountpoint, nil
	}
	return "", dataset.Errorf(dataset.ErrOffline, "the records volume of volume group %s is not mounted here", vg)
}

// inSandbox reports whether the path of a pool is in a sandbox of another pool. Otherwise the path is that of a volume
// group.
func inSandbox(path string) bool {
	for at := filepath.Dir(path); at != filepath.Dir(at); at = filepath.Dir(at) {
		if trialdir.IsSandbox(filepath.Dir(at), filepath.Base(at)) {
			return true
		}
	}
	return false
}

// openSandbox opens a pool in a sandbox of another pool, the outer pool. Its records are in a folder beside the records
// of the outer pool, and its volumes are in the thin pool of the outer pool.
func (b *Backend) openSandbox(ctx context.Context, cfg backends.Config) (*Pool, error) {
	vg, err := groupOf(filepath.Dir(cfg.Path))
	if err != nil {
		return nil, err
	}
	p := b.pool(cfg, vg)
	p.inSandbox = true
	g, all, err := p.tool.readGroup(ctx, vg)
	if err != nil {
		return nil, err
	}
	p.extent, p.chunk = g.Extent, all[poolName].Chunk
	if thin := all[poolName]; thin.Kind != "thin-pool" || !slices.Contains(thin.Tags, ourTag) {
		return nil, dataset.Errorf(dataset.ErrOffline, "volume group %s has no thin pool of drover", vg)
	}
	if p.Shelf, err = shelf.Open(cfg, Name); err != nil {
		return nil, err
	}
	p.Shelf.Destroy, p.Shelf.CheckUnused = p.destroy, p.checkFolderIdle
	return p, p.declare()
}

// groupOf returns the volume group whose filesystem of records contains a folder.
func groupOf(dir string) (string, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return "", dataset.Errorf(dataset.ErrOffline, "%w", err)
	}
	st := info.Sys().(*syscall.Stat_t)
	name, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/dm/name", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	vg, ok := strings.CutSuffix(strings.TrimSpace(string(name)), "-"+recordsName)
	if vg = strings.ReplaceAll(vg, "--", "-"); !ok || !groupName.MatchString(vg) {
		return "", dataset.Errorf(dataset.ErrUnsupported, "%s is not on the records volume of a volume group", dir)
	}
	return vg, nil
}
