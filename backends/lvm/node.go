package lvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/dm"
)

// device is the device mapper's name of a volume.
func (p *Pool) device(name string) string { return dm.Mangle(p.vg, name) }

// activate returns the device of a volume, and makes it if there is none. -K: this includes heads with the
// flag to skip activation, which a restore has made of a snapshot, or which an operator has set.
func (p *Pool) activate(ctx context.Context, name string) (dm.Device, error) {
	dev, err := dm.Find(p.device(name))
	if !errors.Is(err, dm.ErrAbsent) {
		return dev, err
	}
	defer p.forget(name)
	err = p.tool.lvm(ctx, "lvchange", "--yes", "--activate", "y", "--ignoreactivationskip", p.ref(name))
	if errors.Is(err, errAbsent) {
		return dev, dataset.Errorf(dataset.ErrCorrupt, "volume %s is gone", p.ref(name))
	}
	if err != nil {
		return dev, err
	}
	return dm.Find(p.device(name))
}

// forget drops the remembered usage of an inactive volume.
func (p *Pool) forget(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.atRest, name)
}

// change runs a command on volumes. If it fails, the devices that it has left suspended are resumed.
func (p *Pool) change(ctx context.Context, command string, args ...string) error {
	err := p.tool.lvm(ctx, command, args...)
	if wErr := p.rouse(context.WithoutCancel(ctx)); err != nil && wErr != nil {
		err = fmt.Errorf("%w (and %w)", err, wErr)
	}
	return err
}

// rouse calls wake after a command has failed or was killed.
func (p *Pool) rouse(ctx context.Context) error {
	if p.tool.busy() != nil || !p.tool.failed.Swap(false) {
		return nil
	}
	all, err := p.tool.volumes(ctx, p.vg)
	if err == nil {
		err = p.wake(ctx, all)
	}
	if err != nil {
		p.tool.failed.Store(true)
	}
	return err
}

// wake resumes volumes that a killed lvm has left suspended: their writers wait. By lvm, whose lock one that
// still runs has.
func (p *Pool) wake(ctx context.Context, all map[string]volume) error {
	asleep := func(layer ...string) bool {
		dev, err := dm.Find(dm.Mangle(append([]string{p.vg}, layer...)...))
		return err == nil && dev.Suspended
	}
	for name, v := range all {
		pool := name == poolName
		if !slices.Contains(v.Tags, ourTag) || !pool && v.Pool != poolName || !asleep(name) &&
			!(pool && asleep(name, "tpool")) {
			continue
		}
		if err := p.tool.lvm(ctx, "lvchange", "--refresh", p.ref(name)); err != nil {
			return fmt.Errorf("volume %s is suspended, as a command that was killed has left it: %w", p.ref(name), err)
		}
	}
	return nil
}

// node returns a path of a device. Links to it udev makes, when it runs; they are not asked.
func (p *Pool) node(ctx context.Context, dev dm.Device) (string, error) {
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
			return "", fmt.Errorf("nothing below /dev is device %d:%d (%s): is /dev a devtmpfs?", dev.Major,
				dev.Minor, dev.Name)
		}
		if err := p.tool.lvm(ctx, "vgmknodes", p.vg); err != nil {
			return "", err
		}
	}
}

// use is how full the thin pool is.
type use struct {
	data, dataOf         dataset.Size
	metadata, metadataOf dataset.Size
	mode                 string // "": it works
}

// mark is from how many of a hundred parts on nothing new begins.
const mark = 80

// usage asks the kernel how full the thin pool is. It may have gone inactive with the last
// volume in it.
func (p *Pool) usage(ctx context.Context) (use, error) {
	target, err := p.poolTarget()
	if errors.Is(err, dm.ErrAbsent) {
		if err = p.tool.lvm(ctx, "lvchange", "--yes", "--activate", "y", p.ref(poolName)); err == nil {
			target, err = p.poolTarget()
		}
	}
	if err != nil {
		return use{}, err
	}
	return parseUse(target, p.chunk)
}

// poolTarget is the thin pool itself: below a layer from its first volume on.
func (p *Pool) poolTarget() (dm.Target, error) {
	target, err := dm.Status(dm.Mangle(p.vg, poolName, "tpool"))
	if errors.Is(err, dm.ErrAbsent) {
		target, err = dm.Status(p.device(poolName))
	}
	return target, err
}

// parseUse parses the status line of a thin pool: see the kernel's thin-provisioning.rst.
func parseUse(target dm.Target, block dataset.Size) (use, error) {
	field := strings.Fields(target.Status)
	if target.Type == "thin-pool" && len(field) > 0 && (field[0] == "Fail" || field[0] == "Error") {
		return use{mode: "failed"}, nil
	}
	var u use
	var id int64
	n, _ := fmt.Sscanf(target.Status, "%d %d/%d %d/%d", &id, &u.metadata, &u.metadataOf, &u.data, &u.dataOf)
	if n != 5 || target.Type != "thin-pool" {
		return u, fmt.Errorf("the device mapper says %q of a thin pool", target.Type+" "+target.Status)
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

// full fails with ErrNoSpace while nothing new should begin in the pool, with what mends it.
func (p *Pool) full(u use) error {
	ref := p.ref(poolName)
	switch {
	case u.mode == "out of data space" || u.data > u.dataOf/100*mark:
		return dataset.Errorf(dataset.ErrNoSpace,
			"pool %s is nearly full: %s of the %s of its thin pool are taken, and nothing new begins above "+
				"%d %% (delete snapshots or volumes; or lvextend --size +20%% %s, after vgextend %s DEVICE "+
				"where that has no room)",
			p.name, u.data.Human(), u.dataOf.Human(), mark, ref, p.vg)
	case u.mode != "":
		return dataset.Errorf(dataset.ErrNoSpace,
			"pool %s: its thin pool is %s: unmount its volumes, then lvconvert --repair %s", p.name, u.mode, ref)
	case u.metadata > u.metadataOf/100*mark:
		return dataset.Errorf(dataset.ErrNoSpace,
			"pool %s is nearly full: %s of the %s for the metadata of its thin pool are taken, and nothing "+
				"new begins above %d %% (lvextend --poolmetadatasize +%s %s; or delete snapshots)",
			p.name, u.metadata.Human(), u.metadataOf.Human(), mark, bytesText(p.roundUp(u.metadataOf/4)), ref)
	}
	return nil
}

// Status implements backends.Pool.
func (p *Pool) Status(ctx context.Context) dataset.PoolStatus {
	st := p.shelf.Status()
	if !st.Online {
		return st
	}
	if p.tool.failed.Load() && len(p.tool.one) == 0 {
		_ = p.rouse(ctx) // or the next time
	}
	free, size := st.Free, st.Size
	u, err := p.usage(ctx)
	if err == nil && u.mode == "failed" {
		err = p.full(u)
	}
	if err != nil {
		st.Online, st.Reason = false, err.Error()
		return st
	}
	st.Size, st.Free = u.dataOf, u.dataOf-u.data
	var fs unix.Statfs_t
	if err = p.tool.busy(); err == nil {
		err = unix.Statfs(p.shelf.Path(), &fs)
	}
	if err == nil {
		err = p.crowded(u, free, size, fs.Ffree, fs.Files)
	}
	if err != nil {
		st.Reason = err.Error()
	}
	return st
}

// crowded is full, of the records too, by the bytes and files that those have left.
func (p *Pool) crowded(u use, free, size dataset.Size, files, filesOf uint64) error {
	if err := p.full(u); err != nil {
		return err
	}
	what := ""
	switch {
	case free < size/20:
		what = fmt.Sprintf("%s free of %s", free.Human(), size.Human())
	case files < filesOf/20:
		what = fmt.Sprintf("%d inodes free of %d", files, filesOf)
	default:
		return nil
	}
	return dataset.Errorf(dataset.ErrNoSpace,
		"pool %s has no room for more records: %s (lvextend --resizefs --size +256m %s)", p.name, what,
		p.ref(recordsName))
}

// room fails with ErrNoSpace while nothing new should begin in the pool.
func (p *Pool) room(ctx context.Context) error {
	if err := p.tool.busy(); err != nil {
		return err
	}
	switch st := p.Status(ctx); {
	case !st.Online:
		return dataset.Errorf(dataset.ErrOffline, "%s", st.Reason)
	case st.Reason != "":
		return dataset.Errorf(dataset.ErrNoSpace, "%s", st.Reason)
	}
	return nil
}
