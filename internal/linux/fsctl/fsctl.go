// Package fsctl controls filesystems through ioctl(2): freeze, thaw, grow, flush, set flags. It also
// identifies the content of a disk or an image, so that existing data is never formatted.
package fsctl

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Kinds of failure; test with errors.Is.
var (
	// ErrFrozen: the filesystem is frozen already, by whomever.
	ErrFrozen = errors.New("filesystem is frozen already")
	// ErrNotFrozen: there is nothing to thaw.
	ErrNotFrozen = errors.New("filesystem is not frozen")
	// ErrShrink: the filesystem is larger than it was asked to become.
	ErrShrink = errors.New("filesystem can't be made smaller")
	// ErrCapability: the kernel wants a capability that this process has not got.
	ErrCapability = errors.New("a capability is missing")
)

const (
	fiFreeze = 0xC0045877 // _IOWR('X', 119, int)
	fiThaw   = 0xC0045878 // _IOWR('X', 120, int)
)

// Freeze writes the filesystem of dir out and stops all writers to it until Thaw; it
// takes as long as that writing does and can't be cancelled. ErrFrozen when it is.
// The kernel thaws nothing by itself: have a watchdog in another process.
func Freeze(dir *os.File) error {
	err := unix.IoctlSetInt(int(dir.Fd()), fiFreeze, 0)
	if errors.Is(err, unix.EBUSY) {
		err = ErrFrozen
	}
	if err != nil {
		return fmt.Errorf("freeze %s: %w", dir.Name(), err)
	}
	return nil
}

// Thaw lets the writers continue. ErrNotFrozen when there is nothing to thaw.
func Thaw(dir *os.File) error {
	err := unix.IoctlSetInt(int(dir.Fd()), fiThaw, 0)
	if errors.Is(err, unix.EINVAL) {
		err = ErrNotFrozen
	}
	if err != nil {
		return fmt.Errorf("thaw %s: %w", dir.Name(), err)
	}
	return nil
}

// Sync writes the filesystem of dir out (syncfs(2)).
func Sync(dir *os.File) error {
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("sync the filesystem of %s: %w", dir.Name(), err)
	}
	return nil
}

const (
	immutable  = 0x10 // FS_IMMUTABLE_FL, linux/fs.h
	appendOnly = 0x20 // FS_APPEND_FL
)

// SetImmutable sets or clears the immutable flag of a file or directory (chattr(1)): not
// even root then writes to it or makes or removes anything in it. It is idempotent.
// A filesystem without such flags gives ENOTTY or EOPNOTSUPP.
func SetImmutable(f *os.File, on bool) error {
	if on {
		return setFlags(f, 0, immutable)
	}
	return setFlags(f, immutable, 0)
}

// Unprotect clears the flags of a file or directory that keep root from removing it, or its content:
// immutable and append-only (chattr(1)). It is idempotent. A filesystem without such flags gives ENOTTY or
// EOPNOTSUPP.
func Unprotect(f *os.File) error { return setFlags(f, immutable|appendOnly, 0) }

func setFlags(f *os.File, off, on uint32) error {
	fd := int(f.Fd())
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return fmt.Errorf("read the flags of %s: %w", f.Name(), err)
	}
	want := flags&^off | on
	if want == flags {
		return nil
	}
	if err := unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(want)); err != nil {
		return fmt.Errorf("set the flags of %s: %w", f.Name(), err)
	}
	return nil
}

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	flags, extentSize, extents, project, cowExtentSize uint32
	_                                                  [8]byte
}

const (
	fsIocGetXattr     = 0x801C581F // _IOR('X', 31, struct fsxattr)
	fsIocSetXattr     = 0x401C5820 // _IOW('X', 32, struct fsxattr)
	flagCowExtentSize = 0x00010000 // FS_XFLAG_COWEXTSIZE
)

// SetCowExtentSize sets the unit, in bytes, in which XFS allocates writes over shared blocks of a file or,
// for a directory, of files that are made in it from now on. A multiple of the filesystem's block. Where
// nothing is said it is 128 KiB. It is idempotent.
func SetCowExtentSize(f *os.File, bytes uint32) error {
	var x fsxattr
	if err := ioctl(f, fsIocGetXattr, unsafe.Pointer(&x)); err != nil {
		return fmt.Errorf("read the extent size of %s: %w", f.Name(), err)
	}
	if x.flags&flagCowExtentSize != 0 && x.cowExtentSize == bytes {
		return nil
	}
	x.flags |= flagCowExtentSize
	x.cowExtentSize = bytes
	if err := ioctl(f, fsIocSetXattr, unsafe.Pointer(&x)); err != nil {
		return fmt.Errorf("set the extent size of %s to %d: %w", f.Name(), bytes, err)
	}
	return nil
}

// CowExtentSize returns what SetCowExtentSize has set for a file or directory, 0 for
// nothing.
func CowExtentSize(f *os.File) (uint32, error) {
	var x fsxattr
	if err := ioctl(f, fsIocGetXattr, unsafe.Pointer(&x)); err != nil {
		return 0, fmt.Errorf("read the extent size of %s: %w", f.Name(), err)
	}
	return x.cowExtentSize, nil
}

// Kind is a type of filesystem as far as statfs(2) tells.
type Kind string

// The kinds that have a name here. Ext means ext2, ext3 and ext4, which have one magic number.
const (
	Ext     Kind = "ext4"
	XFS     Kind = "xfs"
	Btrfs   Kind = "btrfs"
	Tmpfs   Kind = "tmpfs"
	Overlay Kind = "overlay"
	NFS     Kind = "nfs"
	ZFS     Kind = "zfs"
)

// KindOf returns the kind of filesystem of dir; for a kind without a name here, its magic number in hexadecimal.
func KindOf(dir string) (Kind, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", fmt.Errorf("filesystem of %s: %w", dir, err)
	}
	const zfsMagic = 0x2FC12FC1
	switch magic := uint32(st.Type); magic {
	case unix.EXT4_SUPER_MAGIC:
		return Ext, nil
	case unix.XFS_SUPER_MAGIC:
		return XFS, nil
	case unix.BTRFS_SUPER_MAGIC:
		return Btrfs, nil
	case unix.TMPFS_MAGIC:
		return Tmpfs, nil
	case unix.OVERLAYFS_SUPER_MAGIC:
		return Overlay, nil
	case unix.NFS_SUPER_MAGIC:
		return NFS, nil
	case zfsMagic:
		return ZFS, nil
	default:
		return Kind(fmt.Sprintf("%#x", magic)), nil
	}
}
