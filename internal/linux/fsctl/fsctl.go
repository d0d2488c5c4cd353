// Package fsctl controls filesystems with ioctl(2): freeze, thaw, shut down, grow, flush, trim, flags, project quotas.
// It also identifies the content of a disk or image, so that existing data is never formatted. The backends, the agent,
// the guard, the command drover backend verify and packages tree and btrfsctl call it. The package keeps no state, and
// its functions are safe for concurrent use.
//
// Where to change what: freezing and flags are in fsctl.go. The signatures of known formats are in identify.go, with
// the superblocks of ext4 and XFS. Growing is in grow.go, discarding free space is in trim.go, project quotas are in
// project.go, and free space is in space.go.
package fsctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The errors of this package, for errors.Is.
var (
	// ErrFrozen means that the filesystem is already frozen, by this or another program.
	ErrFrozen = errors.New("filesystem is frozen already")
	// ErrNotFrozen means that the filesystem is not frozen.
	ErrNotFrozen = errors.New("filesystem is not frozen")
	// ErrShrink means that the filesystem is larger than the requested size.
	ErrShrink = errors.New("filesystem cannot shrink")
	// ErrCapability means that this process lacks a capability that the kernel requires.
	ErrCapability = errors.New("a capability is missing")
)

const (
	fiFreeze = 0xC0045877 // _IOWR('X', 119, int)
	fiThaw   = 0xC0045878 // _IOWR('X', 120, int)
)

// Freeze writes out the filesystem of dir and blocks all writers until Thaw. It takes as long as writing out the dirty
// data, and cannot be cancelled. It fails with ErrFrozen if the filesystem is already frozen. The kernel never thaws a
// filesystem by itself, so another process should watch over the caller.
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

// Thaw unblocks the writers. It fails with ErrNotFrozen if the filesystem is not frozen.
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

// Sync writes out the filesystem of dir (syncfs(2)). It also fails if the kernel failed to write data since dir was
// opened, or since the last Sync with dir. An error from before dir was opened is reported only if no other process has
// seen it (errseq_t, since Linux 5.8). If dir is closed meanwhile, it stays open until Sync has ended.
func Sync(dir *os.File) error {
	conn, err := dir.SyscallConn()
	if err == nil {
		err = errors.Join(conn.Control(func(fd uintptr) { err = unix.Syncfs(int(fd)) }), err)
	}
	if err != nil {
		return fmt.Errorf("sync the filesystem of %s: %w", dir.Name(), err)
	}
	return nil
}

const (
	goingDown = 0x8004587D // XFS_IOC_GOINGDOWN and EXT4_IOC_SHUTDOWN: _IOR('X', 125, __u32)
	noFlush   = 2          // XFS_FSOP_GOING_FLAGS_NOLOGFLUSH and EXT4_GOING_FLAGS_NOLOGFLUSH
)

// Fence ends an XFS or ext4 filesystem for everybody who still has it mounted or open. dir is its root directory. Fence
// writes the filesystem out, freezes it, calls frozen, shuts the filesystem down, and thaws it. Afterwards nobody can
// write to it, and what was written before the freeze is on the disk. If frozen fails, the filesystem stays usable.
//
// The shutdown comes after the freeze: a write in flight could otherwise reach the disk after Fence. The flag noFlush
// is necessary: after a shutdown with another flag, the kernel does not mount the device of a frozen filesystem again.
// A freeze that a killed process left is replaced.
//
// Fence closes dir. When ctx ends before the filesystem is frozen, for instance because its disk hangs, Fence returns
// the cause and changes nothing, but dir stays open until the kernel has answered.
func Fence(ctx context.Context, dir *os.File, frozen func() error) error {
	ended := make(chan error, 1)
	begin := make(chan bool, 1)
	isFrozen := make(chan struct{})
	go func() {
		err := freezeAgain(dir)
		if err == nil {
			close(isFrozen)
			if <-begin {
				if err = frozen(); err == nil {
					err = shutDown(dir)
				}
			}
			err = errors.Join(err, Thaw(dir))
		}
		ended <- errors.Join(err, dir.Close())
	}()
	select {
	case err := <-ended:
		return err
	case <-isFrozen:
		begin <- true
		return <-ended
	case <-ctx.Done():
		begin <- false
		return fmt.Errorf("freeze %s: %w", dir.Name(), context.Cause(ctx))
	}
}

// freezeAgain writes out and freezes a filesystem. If it is frozen already, freezeAgain thaws it first.
func freezeAgain(dir *os.File) error {
	if err := Sync(dir); err != nil {
		return err
	}
	err := Freeze(dir)
	if errors.Is(err, ErrFrozen) {
		if err = Thaw(dir); err == nil || errors.Is(err, ErrNotFrozen) {
			err = Freeze(dir)
		}
	}
	return err
}

func shutDown(dir *os.File) error {
	flags := uint32(noFlush)
	if err := ioctl(dir, goingDown, unsafe.Pointer(&flags)); err != nil {
		return fmt.Errorf("shut down the filesystem of %s: %w", dir.Name(), err)
	}
	return nil
}

const (
	immutable  = 0x10 // FS_IMMUTABLE_FL, linux/fs.h
	appendOnly = 0x20 // FS_APPEND_FL
)

// SetImmutable sets or clears the immutable flag of a file or directory (chattr(1)). While it is set, not even root can
// write to the file, or add or remove names in the directory. Idempotent. It fails with ENOTTY or EOPNOTSUPP if the
// filesystem has no such flags.
func SetImmutable(f *os.File, set bool) error {
	if set {
		return setFlags(f, 0, immutable)
	}
	return setFlags(f, immutable, 0)
}

// Unprotect clears the flags immutable and append-only of a file or directory (chattr(1)), which prevent root from
// removing it or its content. Idempotent. It fails with ENOTTY or EOPNOTSUPP if the filesystem has no such flags.
func Unprotect(f *os.File) error { return setFlags(f, immutable|appendOnly, 0) }

func setFlags(f *os.File, toClear, toSet uint32) error {
	fd := int(f.Fd())
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return fmt.Errorf("read the flags of %s: %w", f.Name(), err)
	}
	want := flags&^toClear | toSet
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

// SetCowExtentSize sets the unit in bytes in which XFS allocates space for writes to shared blocks. It applies to a
// file or, for a directory, to files that are created in it later. bytes is a multiple of the filesystem's block size.
// The default is 128 KiB. Idempotent.
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

// Kind is a filesystem type, as far as statfs(2) distinguishes it.
type Kind string

// The known kinds. Ext means ext2, ext3 or ext4, which share one magic number.
const (
	Ext     Kind = "ext4"
	XFS     Kind = "xfs"
	Btrfs   Kind = "btrfs"
	Tmpfs   Kind = "tmpfs"
	Overlay Kind = "overlay"
	NFS     Kind = "nfs"
	ZFS     Kind = "zfs"
)

// KindOf returns the kind of the filesystem of dir. For an unknown kind, it returns the magic number in hexadecimal.
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
