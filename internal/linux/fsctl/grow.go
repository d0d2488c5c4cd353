package fsctl

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// xfsGeometry is struct xfs_fsop_geom (xfs_fs.h): the part that is used, and the rest.
type xfsGeometry struct {
	blockSize, _, agBlocks, _, _, _, _, imaxPct uint32
	dataBlocks                                  uint64
	_                                           [256 - 40]byte
}

// xfsGrow is struct xfs_growfs_data.
type xfsGrow struct {
	newBlocks uint64
	imaxPct   uint32
	_         uint32
}

const (
	xfsIocGeometry = 0x8100587E // _IOR('X', 126, struct xfs_fsop_geom)
	xfsIocGrowData = 0x4010586E // _IOW('X', 110, struct xfs_growfs_data)
	ext4IocResize  = 0x40086610 // _IOW('f', 16, __u64)

	// xfsMinGroup is XFS_MIN_AG_BLOCKS: a last group that would be smaller is not made.
	xfsMinGroup = 64
)

// GrowXFS grows the mounted XFS of dir to the size of a device with that many bytes, while it is used. It
// needs CAP_SYS_ADMIN (ErrCapability). A filesystem that is as large is fine; a larger one is ErrShrink.
func GrowXFS(dir *os.File, bytes int64) error {
	geo, err := geometry(dir)
	if err != nil {
		return fmt.Errorf("grow %s: %w", dir.Name(), err)
	}
	want := uint64(bytes) / uint64(geo.blockSize)
	if rest := want % uint64(geo.agBlocks); rest < xfsMinGroup {
		want -= rest
	}
	switch {
	case want == geo.dataBlocks:
		return nil
	case want < geo.dataBlocks:
		// A device that grew by less than a group is no smaller than its filesystem.
		if uint64(bytes)/uint64(geo.blockSize) >= geo.dataBlocks {
			return nil
		}
		return fmt.Errorf("grow %s: %w", dir.Name(), ErrShrink)
	}
	req := xfsGrow{newBlocks: want, imaxPct: geo.imaxPct}
	if err := ioctl(dir, xfsIocGrowData, unsafe.Pointer(&req)); err != nil {
		return fmt.Errorf("grow %s: %w", dir.Name(), capability(err, "CAP_SYS_ADMIN"))
	}
	return nil
}

// SizeXFS returns how many bytes of its device the mounted XFS of dir uses.
func SizeXFS(dir *os.File) (int64, error) {
	geo, err := geometry(dir)
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", dir.Name(), err)
	}
	return int64(geo.dataBlocks) * int64(geo.blockSize), nil
}

func geometry(dir *os.File) (xfsGeometry, error) {
	var geo xfsGeometry
	if err := ioctl(dir, xfsIocGeometry, unsafe.Pointer(&geo)); err != nil {
		return geo, fmt.Errorf("XFS geometry: %w", err)
	}
	if geo.blockSize == 0 || geo.agBlocks == 0 {
		return geo, errors.New("XFS geometry: the kernel gave none")
	}
	return geo, nil
}

// GrowExt4 grows the mounted ext4 of dir to the size of a device with that many bytes, while it is used. It
// needs CAP_SYS_RESOURCE, which containers and sandboxes often lack: ErrCapability, and nothing was changed.
// A filesystem that is as large is fine; a larger one is ErrShrink.
func GrowExt4(dir *os.File, bytes int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return fmt.Errorf("grow %s: %w", dir.Name(), err)
	}
	blocks := uint64(bytes) / uint64(st.Frsize)
	err := ioctl(dir, ext4IocResize, unsafe.Pointer(&blocks))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL):
		// ext4_resize_fs refuses two things with it: shrinking, and a device that is smaller.
		err = fmt.Errorf("%w, or the device is smaller than %d bytes", ErrShrink, bytes)
	default:
		err = capability(err, "CAP_SYS_RESOURCE")
	}
	return fmt.Errorf("grow %s: %w", dir.Name(), err)
}

// CanGrowExt4 tells whether this process has what GrowExt4 needs.
func CanGrowExt4() (bool, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false, fmt.Errorf("read this process's capabilities: %w", err)
	}
	const c = unix.CAP_SYS_RESOURCE
	return data[c/32].Effective&(1<<(c%32)) != 0, nil
}

func capability(err error, name string) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: %s", ErrCapability, name)
	}
	return err
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}
