package disk

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/safefile"
)

const sysBlock = "/sys/dev/block"

func checkPath(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return dataset.Errorf(dataset.ErrInvalid, "bad device %q: expected an absolute path without . and ..", path)
	}
	return nil
}

// resolve returns the node of a device. The path can be a link, such as those below /dev/disk.
func resolve(path string) (string, error) {
	node, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", dataset.Errorf(dataset.ErrInvalid, "no such device: %s: %w", path, err)
	}
	return node, nil
}

// CheckVacant fails unless path is a writable block device that is not in use and has no known content. It changes
// nothing.
func CheckVacant(path string) error {
	if err := checkPath(path); err != nil {
		return err
	}
	return checkVacant(path)
}

func checkVacant(path string) error {
	node, err := checkNotInUse(path)
	if err != nil {
		return err
	}
	content, err := fsctl.Identify(node)
	if err != nil {
		return err
	}
	if content == fsctl.Empty {
		return nil
	}
	advice := "wipefs -a " + node + " removes the signature, and blkdiscard -z " + node + " overwrites it with zeros"
	if content == fsctl.OtherData {
		advice = "blkdiscard -z -f " + node + " overwrites it with zeros"
	}
	return dataset.Errorf(dataset.ErrExists, "device %s contains %s, and was not changed (if the data is not "+
		"needed: %s)",
		path, content, advice)
}

// checkNotInUse fails unless path is a writable block device that is not in use. It
// returns its node.
func checkNotInUse(path string) (node string, err error) {
	if node, err = resolve(path); err != nil {
		return "", err
	}
	st, err := statBlockDevice(node)
	if err != nil {
		return "", err
	}
	if err := checkNoOtherUse(path, node, st); err != nil {
		return "", err
	}
	// This check comes last: after an open for writing, udev examines the device again, and a loop device may be
	// detached.
	fd, err := unix.Open(node, unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return "", dataset.Errorf(dataset.ErrUnsupported,
			"device %s is not writable (blockdev --getro %s): %w", path, node, err)
	case errors.Is(err, unix.EBUSY):
		return "", dataset.Errorf(dataset.ErrInUse, "device %s is in use (lsblk %s and fuser -v %s show the users)",
			path, node, node)
	case err != nil:
		return "", fmt.Errorf("open device %s: %w", path, err)
	}
	defer unix.Close(fd)
	readOnly, err := unix.IoctlGetInt(fd, unix.BLKROGET)
	if err != nil {
		return "", fmt.Errorf("device %s: %w", path, err)
	}
	if size, err := unix.IoctlGetInt(fd, unix.BLKGETSIZE64); err == nil && size == 0 {
		return "", dataset.Errorf(dataset.ErrUnsupported, "device %s has a size of 0 bytes: no medium is "+
			"inserted", path)
	}
	if readOnly != 0 {
		return "", dataset.Errorf(dataset.ErrUnsupported,
			"device %s is read-only (blockdev --setrw %s makes it writable)", path, node)
	}
	return node, nil
}

// statBlockDevice refuses a path that is not a block device.
func statBlockDevice(node string) (st unix.Stat_t, err error) {
	if err := unix.Stat(node, &st); err != nil {
		return st, dataset.Errorf(dataset.ErrInvalid, "device %s: %w", node, err)
	}
	kind := ""
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return st, nil
	case unix.S_IFREG:
		kind = "a file: for a pool in a file use --path FILE and --image SIZE"
	case unix.S_IFDIR:
		kind = "a directory: for a pool in a directory use --path"
	case unix.S_IFCHR:
		kind = "a character device: expected a block device, such as a disk or a partition"
	default:
		kind = "not a block device"
	}
	return st, dataset.Errorf(dataset.ErrInvalid, "%s is %s", node, kind)
}

// checkNoOtherUse refuses a device that is mounted, used as swap, partitioned, or part of another device.
func checkNoOtherUse(path, node string, st unix.Stat_t) error {
	in := fmt.Sprintf("%s/%d:%d", sysBlock, unix.Major(st.Rdev), unix.Minor(st.Rdev))
	table, err := mount.Table()
	if err != nil {
		return err
	}
	mounted := table.From(node) // the mount table shows a number for a btrfs that is not the number of its device
	if mounts := table.Of(int(unix.Major(st.Rdev)), int(unix.Minor(st.Rdev))); mounted == nil && len(mounts) > 0 {
		mounted = mounts[0]
	}
	if mounted != nil {
		return dataset.Errorf(dataset.ErrInUse, "device %s is mounted at %s (umount %s)", path, mounted.Mountpoint,
			mounted.Mountpoint)
	}
	swap, err := isSwap(st.Rdev)
	if err != nil {
		return err
	}
	if swap {
		return dataset.Errorf(dataset.ErrInUse, "device %s is active swap space (swapoff %s)", path, node)
	}
	holders, err := names(filepath.Join(in, "holders"))
	if err != nil {
		return err
	}
	if len(holders) > 0 {
		return dataset.Errorf(dataset.ErrInUse,
			"device %s is part of %s (lsblk %s shows its kind: LVM, RAID, LUKS or multipath)", path, shortList(holders),
			node)
	}
	parts, err := partitions(in)
	if err != nil {
		return err
	}
	if len(parts) > 0 {
		return dataset.Errorf(dataset.ErrExists,
			"device %s has partitions: %s (pass one of them; or, if their data is not needed: wipefs -a %s, then "+
				"blkdiscard -z %s)", path, shortList(parts), node, node)
	}
	return nil
}

// isSwap reports whether a device is swap space in use.
func isSwap(device uint64) (bool, error) {
	f, err := os.Open("/proc/swaps")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // a kernel without swap
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, _, _ := strings.Cut(lines.Text(), " ")
		var st unix.Stat_t
		if unix.Stat(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == device {
			return true, nil
		}
	}
	return false, lines.Err()
}

// partitions returns the partitions of a device that the kernel knows. in is the directory of the device in sysfs.
func partitions(in string) (parts []string, err error) {
	entries, err := names(in + "/")
	if err != nil {
		return nil, err
	}
	for _, name := range entries {
		if _, err := os.Stat(filepath.Join(in, name, "partition")); err == nil {
			parts = append(parts, name)
		}
	}
	return parts, nil
}

func names(dir string) (out []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, err
}

// shortList lists names, but only as many as fit in one line.
func shortList(names []string) string {
	if more := len(names) - maxListed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxListed], ", "), more)
	}
	return strings.Join(names, ", ")
}

// CheckTotalSize fails with ErrUnsupported if the total size of the devices is less than the minimum.
func CheckTotalSize(devices []string, minimum dataset.Size) error {
	var size dataset.Size
	for _, device := range devices {
		n, err := sizeOf(device)
		if err != nil {
			return err
		}
		size += n
	}
	if size < minimum {
		return dataset.Errorf(dataset.ErrUnsupported, "%s has %s: too small for a pool (at least %s)",
			strings.Join(devices, " and "), size.Human(), minimum)
	}
	return nil
}

// sizeOf returns the size of a device. A drive without a disk has 0 bytes.
func sizeOf(path string) (dataset.Size, error) {
	f, err := safefile.OpenDisk(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := f.Seek(0, 2)
	return dataset.Size(n), err
}
