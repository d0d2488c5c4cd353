// Package mkfs makes the filesystems of volumes that have a device of their own, and knows how
// large that device has to be: a volume of 256 MiB is one into which 256 MiB can be written, so
// what its filesystem keeps for itself comes on top.
package mkfs

import (
	"errors"
	"fmt"
	"os"
	"sort"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// The filesystems that a volume can have.
const (
	Ext4 = "ext4"
	XFS  = "xfs"
)

// MaxSize is the largest volume: beyond it mkfs takes minutes.
const MaxSize = 16 * dataset.TiB

// MaxDevice is at least the Device of each volume.
const MaxDevice = MaxSize + MaxSize/16

// Check fails with ErrUnsupported for a size that a filesystem cannot have.
func Check(fs string, size dataset.Size) error {
	least := 16 * dataset.MiB
	if fs == XFS {
		least = MinXFS
	}
	if size < least {
		return dataset.Errorf(dataset.ErrUnsupported, "%s is too small for %s, which needs %s", size, fs, least)
	}
	return CheckMax(size)
}

// MinXFS is the smallest volume of XFS: mkfs refuses smaller devices.
const MinXFS = 300 * dataset.MiB

// CheckMax fails with ErrUnsupported for a size that none can have.
func CheckMax(size dataset.Size) error {
	if size > MaxSize {
		return dataset.Errorf(dataset.ErrUnsupported, "%s is too large for a volume (at most %s)", size, MaxSize)
	}
	return nil
}

// Device is how many bytes a device needs for a filesystem into which size bytes can be written.
// It is larger for a larger size, and right within 3 % also where a filesystem has grown to the
// size: what was laid out for a smaller one and stays as it is makes no more of a difference.
func Device(fs string, size dataset.Size) dataset.Size {
	keeps := ext4Keeps
	if fs == XFS {
		keeps = xfsKeeps
	}
	device := size
	for range 4 { // its reserve grows with the device, by a fraction of it
		device = size + keeps(size, device)
	}
	const page = 4 * dataset.KiB
	return (device + page - 1) / page * page
}

// Size is the largest size, in whole MiB, for which a device is large enough.
func Size(fs string, device dataset.Size) dataset.Size {
	n := sort.Search(int(device/dataset.MiB),
		func(n int) bool { return Device(fs, dataset.Size(n+1)*dataset.MiB) > device })
	return dataset.Size(n) * dataset.MiB
}

// xfsKeeps is the space that an XFS on a device reserves for itself, beside its log: a reserve of a twentieth,
// at most 8192 blocks, and room for its trees.
func xfsKeeps(_, device dataset.Size) dataset.Size {
	return xfsLog + min(device/20, 32*dataset.MiB) + device/1000*8
}

// xfsLog is the least that mkfs allows.
const xfsLog = 64 * dataset.MiB

// ext4Keeps is the space that an ext4 on a device reserves for itself: its journal, the tables of inodes, the
// descriptors of its groups with room for more, and a fiftieth, at most 4096 blocks, in reserve.
func ext4Keeps(size, device dataset.Size) dataset.Size {
	return journal(size) + device/perInode(size)*inodeSize + min(device/500, 48*dataset.MiB) + min(device/50,
		16*dataset.MiB)
}

const inodeSize = 256

// perInode is for how many bytes there is an inode. It stays as a filesystem grows.
func perInode(size dataset.Size) dataset.Size {
	if size < 512*dataset.MiB {
		return 8 * dataset.KiB
	}
	return 16 * dataset.KiB
}

// journal is the size of an ext4's journal. It stays as a filesystem grows.
func journal(size dataset.Size) dataset.Size {
	switch {
	case size < 4*dataset.GiB:
		return 16 * dataset.MiB
	case size < 32*dataset.GiB:
		return 64 * dataset.MiB
	}
	return 256 * dataset.MiB
}

// Args are the arguments of mkfs.ext4 or mkfs.xfs for a volume of a size, except for the device and the
// arguments that depend on it.
func Args(fs string, size dataset.Size) []string {
	if fs == XFS {
		args := []string{"-q", "-K", "-m", "reflink=1,rmapbt=0"}
		if size < 64*dataset.GiB {
			args = append(args, "-l", fmt.Sprintf("size=%dm", xfsLog/dataset.MiB))
		}
		return args
	}
	return []string{
		"-q", "-b", "4096", "-m", "0", "-e", "remount-ro", "-I", fmt.Sprint(inodeSize),
		"-i", fmt.Sprint(int64(perInode(size))), "-J", fmt.Sprintf("size=%d", journal(size)/dataset.MiB),
	}
}

// RootMode is the default mode of a new filesystem's root.
const RootMode = 0o755

// Root empties the root of a new filesystem, and sets its owner.
func Root(dir *os.File, owner *dataset.Owner) error {
	if err := unix.Unlinkat(int(dir.Fd()), "lost+found", unix.AT_REMOVEDIR); err != nil &&
		!errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove lost+found: %w", err)
	}
	mode := uint32(RootMode)
	if owner != nil {
		if err := dir.Chown(int(owner.UID), int(owner.GID)); err != nil {
			return err
		}
		if owner.Mode != nil {
			mode = *owner.Mode
		}
	}
	// Not os.Chmod, whose setuid, setgid and sticky bits are others than the system's.
	if err := unix.Fchmod(int(dir.Fd()), mode); err != nil {
		return fmt.Errorf("set the mode of the root: %w", err)
	}
	return nil
}
