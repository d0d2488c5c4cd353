package lvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/dm"
)

// activate activates a volume and returns its device. The option --ignoreactivationskip also activates heads with the
// flag that skips activation. Drover sets the flag only for snapshots, but an operator can set it for a head.
func (p *Pool) activate(ctx context.Context, name string) (dm.Device, error) {
	dev, err := dm.Find(p.device(name))
	if !errors.Is(err, dm.ErrAbsent) {
		return dev, err
	}
	defer p.forgetUsage(name)
	err = p.tool.lvm(ctx, "lvchange", "--yes", "--activate", "y", "--ignoreactivationskip", p.ref(name))
	if errors.Is(err, errAbsent) {
		return dev, dataset.Errorf(dataset.ErrCorrupt, "volume %s is missing", p.ref(name))
	}
	if err != nil {
		return dev, err
	}
	return dm.Find(p.device(name))
}

// forgetUsage drops the remembered usage of an inactive volume.
func (p *Pool) forgetUsage(name string) {
	p.usageMu.Lock()
	defer p.usageMu.Unlock()
	delete(p.inactiveUsage, name)
}

// change runs a command on volumes. If the command fails, change resumes the devices that it left suspended.
func (p *Pool) change(ctx context.Context, command string, args ...string) error {
	err := p.tool.lvm(ctx, command, args...)
	if wErr := p.resumeIfFailed(context.WithoutCancel(ctx)); err != nil && wErr != nil {
		err = fmt.Errorf("%w (and %w)", err, wErr)
	}
	return err
}

// resumeIfFailed calls resumeSuspended if a command has failed or was killed.
func (p *Pool) resumeIfFailed(ctx context.Context) error {
	if p.tool.busy() != nil || !p.tool.failed.Swap(false) {
		return nil
	}
	all, err := p.tool.volumes(ctx, p.vg)
	if err == nil {
		err = p.resumeSuspended(ctx, all)
	}
	if err != nil {
		p.tool.failed.Store(true)
	}
	return err
}

// resumeSuspended resumes volumes that a failed or killed lvm(8) left suspended, because writers to them hang. (Drover
// itself does not kill a command that changes something.) It runs lvm(8) for this, which waits for the lock of a
// running command.
func (p *Pool) resumeSuspended(ctx context.Context, all map[string]volume) error {
	asleep := func(layer ...string) bool {
		dev, err := dm.Find(dm.Mangle(append([]string{p.vg}, layer...)...))
		return err == nil && dev.Suspended
	}
	for name, lv := range all {
		pool := name == poolName
		if !slices.Contains(lv.Tags, ourTag) || !pool && lv.Pool != poolName || !asleep(name) &&
			!(pool && asleep(name, "tpool")) {
			continue
		}
		if err := p.tool.lvm(ctx, "lvchange", "--refresh", p.ref(name)); err != nil {
			return fmt.Errorf("volume %s is suspended, because a command was killed: %w", p.ref(name), err)
		}
	}
	return nil
}

// nodeOf returns the path of a device. It does not use the links that udev makes, because udev may not be running.
func (p *Pool) nodeOf(ctx context.Context, dev dm.Device) (string, error) {
	for try := 0; ; try++ {
		for _, path := range []string{dev.Node(), "/dev/mapper/" + dev.Name} {
			var st unix.Stat_t
			err := unix.Stat(path, &st)
			if err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && unix.Major(st.Rdev) == dev.Major &&
				unix.Minor(st.Rdev) == dev.Minor {
				return path, nil
			}
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return "", err
			}
		}
		if try > 0 {
			return "", fmt.Errorf("no device below /dev is %d:%d (%s): is /dev a devtmpfs?", dev.Major,
				dev.Minor, dev.Name)
		}
		if err := p.tool.lvm(ctx, "vgmknodes", p.vg); err != nil {
			return "", err
		}
	}
}

// usage is how full the thin pool is.
type usage struct {
	data, dataOf         dataset.Size // used bytes, and all bytes
	metadata, metadataOf dataset.Size // used bytes, and all bytes
	mode                 string       // why the pool cannot be written to; "" if it works
}

// maxPercent is the percentage of used space at which the pool refuses new work.
const maxPercent = 80

// usage asks the kernel how full the thin pool is. If the pool became inactive together with its last volume, usage
// activates the pool.
func (p *Pool) usage(ctx context.Context) (usage, error) {
	target, err := p.poolTarget()
	if errors.Is(err, dm.ErrAbsent) {
		if err = p.tool.lvm(ctx, "lvchange", "--yes", "--activate", "y", p.ref(poolName)); err == nil {
			target, err = p.poolTarget()
		}
	}
	if err != nil {
		return usage{}, err
	}
	return parseUsage(target, p.chunk)
}

// poolTarget returns the target of the thin pool. Once the pool has a volume, LVM puts another layer above the device
// with this target.
func (p *Pool) poolTarget() (dm.Target, error) {
	target, err := dm.Status(dm.Mangle(p.vg, poolName, "tpool"))
	if errors.Is(err, dm.ErrAbsent) {
		target, err = dm.Status(p.device(poolName))
	}
	return target, err
}

// parseUsage parses the status line of a thin pool: see the kernel's thin-provisioning.rst.
func parseUsage(target dm.Target, block dataset.Size) (usage, error) {
	field := strings.Fields(target.Status)
	if target.Type == "thin-pool" && len(field) > 0 && (field[0] == "Fail" || field[0] == "Error") {
		return usage{mode: "failed"}, nil
	}
	var u usage
	var id int64
	n, _ := fmt.Sscanf(target.Status, "%d %d/%d %d/%d", &id, &u.metadata, &u.metadataOf, &u.data, &u.dataOf)
	if n != 5 || target.Type != "thin-pool" {
		return u, fmt.Errorf("the device mapper reports %q for a thin pool", target.Type+" "+target.Status)
	}
	u.metadata, u.metadataOf = u.metadata*4*dataset.KiB, u.metadataOf*4*dataset.KiB
	u.data, u.dataOf = u.data*block, u.dataOf*block
	for word, mode := range map[string]string{
		"ro":                "read-only",
		"out_of_data_space": "out of data space",
		"needs_check":       "damaged",
	} {
		if slices.Contains(field, word) {
			u.mode = mode
		}
	}
	return u, nil
}

// usedInactive returns the usage of an inactive volume, which does not change while the volume is inactive. It reads
// the usage of all inactive volumes at once, because a caller usually asks for several.
func (p *Pool) usedInactive(ctx context.Context, name string) (dataset.Size, error) {
	p.usageMu.Lock()
	size, known := p.inactiveUsage[name]
	p.usageMu.Unlock()
	if known {
		return size, nil
	}
	rows, err := p.tool.report(ctx, "lvs", "lv_name,thin_id,lv_active", "--select", "pool_lv="+poolName, p.vg)
	if err != nil {
		return 0, err
	}
	blocks, err := p.mapped(ctx)
	if err != nil {
		return 0, fmt.Errorf("pool %s: used space of its volumes: %w", p.name, err)
	}
	p.usageMu.Lock()
	defer p.usageMu.Unlock()
	clear(p.inactiveUsage)
	for _, r := range rows {
		number, err := strconv.ParseUint(r["thin_id"], 10, 64)
		n, listed := blocks[number]
		if err == nil && listed && r["lv_active"] == "" {
			p.inactiveUsage[r["lv_name"]] = dataset.Size(n) * p.chunk
		}
	}
	if size, known = p.inactiveUsage[name]; !known {
		return 0, dataset.Errorf(dataset.ErrCorrupt, "volume %s is missing, or was just activated", p.ref(name))
	}
	return size, nil
}

// mapped returns the number of blocks of each volume in the pool. The key is the volume's number in the pool.
func (p *Pool) mapped(ctx context.Context) (map[uint64]uint64, error) {
	if _, err := p.usage(ctx); err != nil { // usage activates the pool
		return nil, err
	}
	err := dm.Commit(p.device(poolName) + "-tpool")
	if errors.Is(err, dm.ErrAbsent) {
		err = dm.Commit(p.device(poolName))
	}
	if err != nil {
		return nil, err
	}
	dev, err := dm.Find(p.device(poolName + "_tmeta"))
	if err != nil {
		return nil, err
	}
	return dm.Mapped(dev.Node())
}
