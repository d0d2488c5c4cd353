package fsctl

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// xfsGeometry is struct xfs_fsop_geom (xfs_fs.h): the fields that are used here, and padding for the others.
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

	// xfsMinGroup is XFS_MIN_AG_BLOCKS. XFS does not create a last allocation group that would be smaller.
	xfsMinGroup = 64
)

// Grow grows the mounted filesystem of dir, which is XFS or ext4: see GrowXFS and GrowExt4.
func Grow(dir *os.File, fs string, bytes int64) error {
	if fs == string(XFS) {
		return GrowXFS(dir, bytes)
	}
	return GrowExt4(dir, bytes)
}

// GrowXFS grows the mounted XFS of dir to the size of its device in bytes. The filesystem may be in use. It returns nil
// if the filesystem already has that size, and fails with ErrShrink if it is larger. It needs CAP_SYS_ADMIN
// (ErrCapability).
func GrowXFS(dir *os.File, bytes int64) error {
	geo, err := geometry(dir)
	if err != nil {
		return fmt.Errorf("grow %s: %w", dir.Name(), err)
	}
	want := uint64(bytes) / uint64(geo.blockSize)
	if lastGroup := want % uint64(geo.agBlocks); lastGroup < xfsMinGroup {
		want -= lastGroup
	}
	switch {
	case want == geo.dataBlocks:
		return nil
	case want < geo.dataBlocks:
		// If the device grew by less than an allocation group, the filesystem does not grow.
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
		return geo, errors.New("XFS geometry: the kernel returned none")
	}
	return geo, nil
}

// GrowExt4 grows the mounted ext4 of dir to the size of its device in bytes. The filesystem may be in use. It returns
// nil if the filesystem already has that size, and fails with ErrShrink if the filesystem is larger or the device is
// smaller. It needs CAP_SYS_RESOURCE, which containers and sandboxes often lack: then it fails with ErrCapability, and
// changes nothing.
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
		// ext4_resize_fs returns this error in two cases: for a smaller size, and for a size beyond the device.
		err = fmt.Errorf("%w, or the device is smaller than %d bytes", ErrShrink, bytes)
	default:
		err = capability(err, "CAP_SYS_RESOURCE")
	}
	return fmt.Errorf("grow %s: %w", dir.Name(), err)
}

// CanGrowExt4 reports whether this process has the capability that GrowExt4 needs.
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
