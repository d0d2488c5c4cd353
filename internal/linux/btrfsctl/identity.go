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
	_    [184]byte // transactions and times, which the kernel sets
}

// infoArgs is struct btrfs_ioctl_get_subvol_info_args.
type infoArgs struct {
	_        [296]byte
	uuid     uuid.UUID
	_        [16]byte // UUID of the snapshot's source
	received uuid.UUID
	_        [160]byte
}

// identity returns the UUID that identifies a read-only subvolume in streams: the UUID that it was received with or, if
// it was not received, its own UUID. A writable snapshot has a different identity.
func identity(dir *os.File) (uuid.UUID, error) {
	info, err := infoOf(dir)
	if err != nil || info.received != uuid.Nil {
		return info.received, err
	}
	return info.uuid, nil
}

func infoOf(dir *os.File) (info infoArgs, err error) {
	if err := ioctl(dir, iocSubvolInfo, unsafe.Pointer(&info)); err != nil {
		return infoArgs{}, fmt.Errorf("find the subvolume ID of %s: %w", dir.Name(), err)
	}
	return info, nil
}

// ReceivedUUID returns the UUID that a subvolume was received with. It returns uuid.Nil if it was not received, or if
// the UUID was not set.
func ReceivedUUID(dir *os.File) (uuid.UUID, error) {
	info, err := infoOf(dir)
	return info.received, err
}

// setReceived sets the UUID that the writable subvolume dir was received with.
func setReceived(dir *os.File, id uuid.UUID) error {
	if err := ioctl(dir, iocSetReceived, unsafe.Pointer(&receivedArgs{uuid: id})); err != nil {
		return fmt.Errorf("record the origin of %s: %w", dir.Name(), err)
	}
	return nil
}
