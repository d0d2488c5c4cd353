package btrfsctl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	iocSync         = 0x00009408 // _IO(0x94, 8)
	iocQgroupCreate = 0x4010942A // _IOW(0x94, 42, struct btrfs_ioctl_qgroup_create_args)

	rootItem    = 132 // BTRFS_ROOT_ITEM_KEY
	rootBackref = 144 // BTRFS_ROOT_BACKREF_KEY
)

// DeletionState is the progress of the deletion of a subvolume.
type DeletionState int

// The values of DeletionState.
const (
	NotDeleted DeletionState = iota
	Deleting                 // it was deleted, and the kernel still frees its space
	Deleted
)

// DeletionStateOf returns the DeletionState of the subvolume with an ID. f is any file of the filesystem. Needs
// CAP_SYS_ADMIN.
func DeletionStateOf(f *os.File, id uint64) (DeletionState, error) {
	args := &searchArgs{
		tree: rootTree, minObject: id, maxObject: id, minType: rootItem, maxType: rootBackref,
		maxOffset: ^uint64(0), maxTransid: ^uint64(0), nItems: ^uint32(0), size: searchRoom,
	}
	if err := ioctl(f, iocTreeSearchV2, unsafe.Pointer(args)); err != nil {
		return NotDeleted, fmt.Errorf("check whether subvolume %d of %s is deleted: %w", id, f.Name(), err)
	}
	state, rest := Deleted, args.room[:]
	for range args.nItems {
		kind, size := binary.NativeEndian.Uint32(rest[24:]), searchHeader+int(binary.NativeEndian.Uint32(rest[28:]))
		if kind == rootBackref { // it has a name
			return NotDeleted, nil
		}
		state, rest = Deleting, rest[min(size, len(rest)-searchHeader):]
	}
	return state, nil
}

// StartCleanup writes out the filesystem of f and makes the kernel start to clean up deleted subvolumes. Without it,
// the kernel starts within half a minute.
func StartCleanup(f *os.File) error {
	if err := ioctl(f, iocSync, nil); err != nil {
		return fmt.Errorf("sync %s: %w", f.Name(), err)
	}
	return nil
}

// RemoveQgroup removes the quota group of a deleted subvolume. Kernels before 6.11 leave it behind, later ones only
// with simple quotas. It returns true once the group does not exist, and false if the group cannot be removed yet
// because bytes are still charged to it. With simple quotas, this lasts as long as other subvolumes share its blocks.
// With full quotas, it lasts until the commit after the deletion. Removing a full quota group too early would make the
// kernel mark all quotas as inconsistent.
func RemoveQgroup(f *os.File, id uint64) (bool, error) {
	mode, _, err := Quotas(f)
	if err != nil || mode == QuotaNone {
		return err == nil, err
	}
	filesystem, err := UUID(f)
	if err != nil {
		return false, err
	}
	for _, figure := range []string{"referenced", "exclusive"} {
		used, err := number(countOf(filesystem, id, figure))
		switch {
		case errors.Is(err, os.ErrNotExist):
			return true, nil
		case err != nil || used > 0:
			return false, err
		}
	}
	args := [2]uint64{0, id} // struct btrfs_ioctl_qgroup_create_args: create, qgroupid
	switch err := ioctl(f, iocQgroupCreate, unsafe.Pointer(&args)); {
	case err == nil, errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTCONN):
		return true, nil
	case errors.Is(err, unix.EBUSY):
		return false, nil
	default:
		return false, fmt.Errorf("remove qgroup 0/%d of %s: %w", id, f.Name(), err)
	}
}
