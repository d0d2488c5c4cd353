// Package btrfsctl makes, snapshots and destroys btrfs subvolumes by ioctl(2), without
// btrfs-progs and without cgo (linux/btrfs.h).
package btrfsctl

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Kinds of failure; test with errors.Is. os.ErrExist and os.ErrNotExist hold as well.
var (
	// ErrNested: the subvolume has subvolumes inside, which have to go first.
	ErrNested = errors.New("subvolume holds other subvolumes")
	// ErrNotSubvolume: the directory is no subvolume.
	ErrNotSubvolume = errors.New("not a btrfs subvolume")
)

// The ioctls: _IOW(0x94, nr, size) and so on.
const (
	iocSubvolMake  = 0x5000940E // 14, struct btrfs_ioctl_vol_args
	iocSnapDestroy = 0x5000940F // 15
	iocWaitSync    = 0x40089416 // 22, __u64
	iocSnapMakeV2  = 0x50009417 // 23, struct btrfs_ioctl_vol_args_v2
	iocStartSync   = 0x80089418 // 24
	iocSetFlags    = 0x4008941A // 26, __u64

	flagReadOnly = 1 << 1 // BTRFS_SUBVOL_RDONLY
	rootInode    = 256    // BTRFS_FIRST_FREE_OBJECTID
	nameMax      = 255    // BTRFS_NAME_LEN
)

// volArgs is struct btrfs_ioctl_vol_args.
type volArgs struct {
	fd   int64
	name [4088]byte
}

// volArgsV2 is struct btrfs_ioctl_vol_args_v2.
type volArgsV2 struct {
	fd      int64
	transid uint64
	flags   uint64
	unused  [4]uint64
	name    [4040]byte
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > nameMax || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q is no name of a subvolume (1 to %d bytes without a slash)", name, nameMax)
	}
	return nil
}

// Create makes an empty subvolume in dir. os.ErrExist when the name is taken. It is on
// the disk only after WaitSync.
func Create(dir *os.File, name string) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("create subvolume: %w", err)
	}
	args := new(volArgs)
	copy(args.name[:], name)
	if err := ioctl(dir, iocSubvolMake, unsafe.Pointer(args)); err != nil {
		return fmt.Errorf("create subvolume %s/%s: %w", dir.Name(), name, err)
	}
	return nil
}

// Snapshot makes a snapshot of the subvolume whose root directory is src, named name in
// dir, as it is at one moment while it is written to. os.ErrExist when the name is
// taken. Subvolumes inside src don't come along: each becomes an empty directory that is
// no subvolume (its inode is 2). It is on the disk only after WaitSync.
func Snapshot(dir *os.File, name string, src *os.File, readOnly bool) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("snapshot %s: %w", src.Name(), err)
	}
	args := &volArgsV2{fd: int64(src.Fd())}
	if readOnly {
		args.flags = flagReadOnly
	}
	copy(args.name[:], name)
	err := ioctl(dir, iocSnapMakeV2, unsafe.Pointer(args))
	if errors.Is(err, unix.EINVAL) {
		if ok, isErr := IsSubvolume(src); isErr == nil && !ok {
			err = ErrNotSubvolume
		}
	}
	if err != nil {
		return fmt.Errorf("snapshot %s to %s/%s: %w", src.Name(), dir.Name(), name, err)
	}
	return nil
}

// SetReadOnly keeps all from writing to the subvolume whose root directory is dir. Again:
// nothing. It is on the disk only after WaitSync.
func SetReadOnly(dir *os.File) error { return setFlags(dir, flagReadOnly) }

func setFlags(dir *os.File, flags uint64) error {
	if err := ioctl(dir, iocSetFlags, unsafe.Pointer(&flags)); err != nil {
		return fmt.Errorf("set flags %#x of subvolume %s: %w", flags, dir.Name(), err)
	}
	return nil
}

// Delete destroys the subvolume name in dir, read-only or not, with all that is in it.
// os.ErrNotExist when there is none, ErrNested when it has subvolumes inside. The name
// is gone at once, on the disk after WaitSync; the space comes back later.
func Delete(dir *os.File, name string) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("delete subvolume: %w", err)
	}
	args := new(volArgs)
	copy(args.name[:], name)
	err := ioctl(dir, iocSnapDestroy, unsafe.Pointer(args))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOTEMPTY):
		err = ErrNested
	case errors.Is(err, unix.EINVAL):
		err = ErrNotSubvolume
	}
	return fmt.Errorf("delete subvolume %s/%s: %w", dir.Name(), name, err)
}

// IsSubvolume tells whether dir is the root directory of a subvolume. A directory in the place of a nested
// subvolume in a snapshot is not one.
func IsSubvolume(dir *os.File) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return false, fmt.Errorf("is %s a subvolume: %w", dir.Name(), err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return false, fmt.Errorf("is %s a subvolume: %w", dir.Name(), err)
	}
	return uint32(fs.Type) == unix.BTRFS_SUPER_MAGIC && st.Ino == rootInode, nil
}

// StartSync begins to commit the filesystem of dir, and returns the transaction to wait
// for: earlier changes are on the disk once that is committed.
func StartSync(dir *os.File) (transaction uint64, err error) {
	if err := ioctl(dir, iocStartSync, unsafe.Pointer(&transaction)); err != nil {
		return 0, fmt.Errorf("start a commit of %s: %w", dir.Name(), err)
	}
	return transaction, nil
}

// WaitSync waits for a transaction that StartSync gave. Any number may wait for one;
// one that is committed already is fine, one that was never begun an error.
func WaitSync(dir *os.File, transaction uint64) error {
	if err := ioctl(dir, iocWaitSync, unsafe.Pointer(&transaction)); err != nil {
		return fmt.Errorf("wait for a commit of %s: %w", dir.Name(), err)
	}
	return nil
}

const nocow = 0x00800000 // FS_NOCOW_FL, linux/fs.h

// SetNOCOW makes an empty file, or the files made in a directory from now on, be written
// in place, without checksums. A file that has bytes is refused: btrfs ignores it
// there. It is idempotent.
func SetNOCOW(f *os.File) error {
	fd := int(f.Fd())
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return fmt.Errorf("flags of %s: %w", f.Name(), err)
	}
	if flags&nocow != 0 {
		return nil
	}
	if err := unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags|nocow)); err != nil {
		return fmt.Errorf("set NOCOW on %s: %w", f.Name(), err)
	}
	if flags, err = unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS); err != nil {
		return fmt.Errorf("flags of %s: %w", f.Name(), err)
	}
	if flags&nocow == 0 {
		return fmt.Errorf("set NOCOW on %s: btrfs ignored it, as it does for files that have bytes", f.Name())
	}
	return nil
}
