// Package mkfs computes how large the device of a volume must be for its filesystem, and which arguments mkfs needs. A
// user can write as many bytes to a volume as its size says. So the package adds the space that the filesystem uses for
// itself. Backends loop and lvm call the package. The package keeps no state. Sizes and arguments are in mkfs.go, and
// which filesystems a host supports is in host.go.
package mkfs

import (
	"errors"
	"fmt"
	"os"
	"sort"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// The filesystems of volumes.
const (
	Ext4 = "ext4"
	XFS  = "xfs"
)

// MaxSize is the largest volume. For larger ones mkfs takes minutes.
const MaxSize = 16 * dataset.TiB

// MaxDevice is at least the result of Device for every volume.
const MaxDevice = MaxSize + MaxSize/16

// Request is the size and the filesystem of a new volume. Check checks them.
type Request struct {
	Chosen     string       // filesystem of the profile; empty: the profile has none, so Filesystem is the default
	Filesystem string       // that the volume gets
	Size       dataset.Size // that the user or the profile requested
}

// Check fails with ErrUnsupported if the size is too small or too large for a volume with the filesystem. The error
// names the filesystem only if the profile has it.
func (r Request) Check() error {
	minimum := 16 * dataset.MiB
	if r.Filesystem == XFS {
		minimum = MinXFS
	}
	switch {
	case r.Size >= minimum:
		return CheckMax(r.Size)
	case r.Chosen == "":
		return dataset.Errorf(dataset.ErrUnsupported, "%s is too small for a volume (at least %s)", r.Size, minimum)
	}
	return dataset.Errorf(dataset.ErrUnsupported, "%s is too small for %s, which needs %s", r.Size, r.Chosen, minimum)
}

// MinXFS is the smallest volume with XFS: mkfs refuses smaller devices.
const MinXFS = 300 * dataset.MiB

// CheckMax fails with ErrUnsupported if the size is too large for every filesystem.
func CheckMax(size dataset.Size) error {
	if size > MaxSize {
		return dataset.Errorf(dataset.ErrUnsupported, "%s is too large for a volume (at most %s)", size, MaxSize)
	}
	return nil
}

// Device returns how many bytes a device needs for a filesystem to which size bytes can be written. It grows
// monotonically with size. The space that can be written differs from size by at most 3 %. This also holds for a
// filesystem that has grown to the size, although some of its structures keep the layout of the smaller size.
func Device(fs string, size dataset.Size) dataset.Size {
	overhead := ext4Overhead
	if fs == XFS {
		overhead = xfsOverhead
	}
	device := size
	for range 4 { // the reserve is a fraction of the device, so iterate until it is stable
		device = size + overhead(size, device)
	}
	const page = 4 * dataset.KiB
	return (device + page - 1) / page * page
}

// Size returns the largest size, in whole MiB, for which a device is large enough.
func Size(fs string, device dataset.Size) dataset.Size {
	n := sort.Search(int(device/dataset.MiB),
		func(n int) bool { return Device(fs, dataset.Size(n+1)*dataset.MiB) > device })
	return dataset.Size(n) * dataset.MiB
}

// xfsOverhead returns the space that XFS uses for itself on a device: its log, a reserve of a twentieth of the device,
// at most 8192 blocks (32 MiB), and 0.8 % for its trees.
func xfsOverhead(_, device dataset.Size) dataset.Size {
	return xfsLog + min(device/20, 32*dataset.MiB) + device/1000*8
}

// xfsLog is the smallest log that mkfs allows.
const xfsLog = 64 * dataset.MiB

// ext4Overhead returns the space that ext4 uses for itself on a device: the journal, the inode tables, the group
// descriptors with space for more, and a reserve of a fiftieth of the device, at most 4096 blocks (16 MiB).
func ext4Overhead(size, device dataset.Size) dataset.Size {
	return journal(size) + device/bytesPerInode*inodeSize + min(device/500, 48*dataset.MiB) + min(device/50,
		16*dataset.MiB)
}

const inodeSize = 256

// bytesPerInode is the number of bytes for each inode. It is the same for all sizes, because it does not change when a
// filesystem grows: a restore of a volume that has grown needs as many inodes in a new filesystem.
const bytesPerInode = 16 * dataset.KiB

// journal returns the size of an ext4 journal. It does not change when a filesystem grows.
func journal(size dataset.Size) dataset.Size {
	switch {
	case size < 4*dataset.GiB:
		return 16 * dataset.MiB
	case size < 32*dataset.GiB:
		return 64 * dataset.MiB
	}
	return 256 * dataset.MiB
}

// Args returns the arguments of mkfs.ext4 or mkfs.xfs for a volume of a size, without the device and the arguments that
// depend on it.
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
		"-i", fmt.Sprint(int64(bytesPerInode)), "-J", fmt.Sprintf("size=%d", journal(size)/dataset.MiB),
	}
}

// RootMode is the default mode of the root directory of a new filesystem.
const RootMode = 0o755

// PrepareRoot empties the root directory of a new filesystem, and sets its owner and mode.
func PrepareRoot(dir *os.File, owner *dataset.Owner) error {
	if err := unix.Unlinkat(int(dir.Fd()), "lost+found", unix.AT_REMOVEDIR); err != nil &&
		!errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove lost+found: %w", err)
	}
	return SetOwner(dir, owner)
}

// SetOwner sets the owner and the mode of the root directory of a new volume. If owner is nil, the owner stays.
func SetOwner(dir *os.File, owner *dataset.Owner) error {
	mode := uint32(RootMode)
	if owner != nil {
		if err := dir.Chown(int(owner.UID), int(owner.GID)); err != nil {
			return err
		}
		if owner.Mode != nil {
			mode = *owner.Mode
		}
	}
	// Do not use os.Chmod: it encodes setuid, setgid and sticky differently from the system.
	if err := unix.Fchmod(int(dir.Fd()), mode); err != nil {
		return fmt.Errorf("set the mode of the root: %w", err)
	}
	return nil
}
