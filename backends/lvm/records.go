package lvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/dm"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
)

const (
	recordsSize  = 256 * dataset.MiB
	formattedTag = "drover.formatted" // of the records' volume: mkfs has ended

	mkfsTimeout = 5 * time.Minute
)

// makeRecords makes the volume for the records of a pool, or formats the one that is there to
// the end.
func (o *opener) makeRecords(ctx context.Context, id uuid.UUID, there volume) error {
	switch {
	case there.Name == "":
		size := bytesText(o.roundUp(recordsSize))
		if err := o.tool.lvm(ctx, "lvcreate", "--yes", "--type", "linear", "--size", size, "--wipesignatures", "y",
			"--addtag", ourTag, "--name", recordsName, o.vg); err != nil {
			return err
		}
		o.step("lvm.records.created")
	case !slices.Contains(there.Tags, ourTag):
		return dataset.Errorf(dataset.ErrExists, "drover did not make %s: it was left as it is", o.ref(recordsName))
	}
	dev, err := o.volumes.activate(ctx, recordsName)
	if err != nil {
		return err
	}
	node, err := o.volumes.node(ctx, dev)
	if err != nil {
		return err
	}
	done, err := formatted(node, id)
	if err != nil {
		return fmt.Errorf("%s: %w", o.ref(recordsName), err)
	}
	if !done {
		// A record is a file of some hundred bytes: there are as many inodes as blocks.
		args := []string{"-q", "-b", "4096", "-i", "4096", "-m", "0", "-e", "remount-ro", "-U", id.String(), node}
		if _, err := o.runner.Run(ctx, run.Command{Name: "mkfs.ext4", Args: args, Timeout: mkfsTimeout}); err != nil {
			return err
		}
		o.step("lvm.records.formatted")
	}
	return o.tool.lvm(ctx, "lvchange", "--addtag", formattedTag, o.ref(recordsName))
}

// formatted reports whether the volume for the records has its filesystem already, and refuses every other
// known content. Unknown content is older than the volume, or was left by an interrupted mkfs, which writes
// the superblock last.
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
		var has uuid.UUID
		if _, err := f.ReadAt(has[:], 1024+0x68); err != nil || has == id {
			return true, err
		}
	}
	return false, dataset.Errorf(dataset.ErrExists,
		"it holds %s that drover did not make, and was left as it is (when nobody needs that: lvremove it)", content)
}

// mountRecords mounts the records, or finds them mounted from an earlier run.
func (o *opener) mountRecords(ctx context.Context, at string) error {
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	dev, err := dm.Find(o.device(recordsName))
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
			"%s is mounted at %s, where the records of volume group %s belong", e.Source, at, o.vg)
	}
	node, err := o.volumes.node(ctx, dev)
	if err != nil {
		return err
	}
	err = mount.Mount(at, mount.Spec{
		Source:  node,
		FSType:  ext4,
		Options: []string{"noatime", "nodev", "nosuid", "noexec"},
	})
	if err != nil {
		return dataset.Errorf(dataset.ErrCorrupt, "%w (e2fsck /dev/%s may mend it; nothing was changed)", err,
			o.ref(recordsName))
	}
	return nil
}

// unmountRecords unmounts them unless they are in use.
func (o *opener) unmountRecords(at string) error {
	err := mount.Unmount(at)
	if errors.Is(err, mount.ErrBusy) || errors.Is(err, mount.ErrNotMounted) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
