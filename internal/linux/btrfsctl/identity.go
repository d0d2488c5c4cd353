package btrfsctl

import (
	"fmt"
	"os"
	"unsafe"

	"github.com/google/uuid"
)

const (
	iocSetReceived = 0xC0C89425 // _IOWR(0x94, 37, struct btrfs_ioctl_received_subvol_args)
	iocSubvolInfo  = 0x81F8943C // _IOR(0x94, 60, struct btrfs_ioctl_get_subvol_info_args)
)

// receivedArgs is struct btrfs_ioctl_received_subvol_args.
type receivedArgs struct {
	uuid uuid.UUID
	_    [184]byte // transactions and times, which the kernel notes
}

// infoArgs is struct btrfs_ioctl_get_subvol_info_args.
type infoArgs struct {
	_        [296]byte
	uuid     uuid.UUID
	_        [16]byte // of what it is a snapshot
	received uuid.UUID
	_        [160]byte
}

// identity is the UUID of a read-only subvolume in streams: the UUID that it came with, or its own UUID if it
// did not come by a stream. A writable snapshot of it is another.
func identity(dir *os.File) (uuid.UUID, error) {
	info, err := infoOf(dir)
	if err != nil || info.received != uuid.Nil {
		return info.received, err
	}
	return info.uuid, nil
}

func infoOf(dir *os.File) (info infoArgs, err error) {
	if err := ioctl(dir, iocSubvolInfo, unsafe.Pointer(&info)); err != nil {
		return infoArgs{}, fmt.Errorf("which subvolume is %s: %w", dir.Name(), err)
	}
	return info, nil
}

// CameAs is the UUID that a subvolume came with; uuid.Nil: it did not come by a stream, or the UUID was not noted.
func CameAs(dir *os.File) (uuid.UUID, error) {
	info, err := infoOf(dir)
	return info.received, err
}

// setReceived notes the UUID that the writable subvolume dir came with.
func setReceived(dir *os.File, as uuid.UUID) error {
	if err := ioctl(dir, iocSetReceived, unsafe.Pointer(&receivedArgs{uuid: as})); err != nil {
		return fmt.Errorf("note as what %s came: %w", dir.Name(), err)
	}
	return nil
}
