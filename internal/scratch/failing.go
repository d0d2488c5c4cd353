package scratch

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/loopdev"
)

// FailingDisk returns the path of an empty block device of size bytes, and a function that makes all later reads and
// writes of it fail with EIO. The device is a file of an XFS, which the function shuts down. For disks that fail in
// part, or that work again, use the kernel lab (test/lab/inside).
func FailingDisk(tb testing.TB, size int64) (device string, fail func()) {
	tb.Helper()
	mountPoint := Mount(tb, "xfs", size+XFS)
	file := filepath.Join(mountPoint, "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		tb.Fatal(err)
	}
	dev, err := loopdev.Attach(tb.Context(), file, loopdev.Options{DirectIO: true, BlockSize: 4096})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = dev.Close() }) // it may report writes that failed
	return dev.Path, func() {
		tb.Helper()
		ShutDown(tb, mountPoint)
	}
}

// ShutDown shuts an XFS down. XFS does the same by itself when it cannot write its journal.
func ShutDown(tb testing.TB, at string) {
	tb.Helper()
	dir, err := os.Open(at)
	if err != nil {
		tb.Fatal(err)
	}
	defer dir.Close()
	const goingDown = 0x8004587D // XFS_IOC_GOINGDOWN of linux/xfs_fs.h
	flags := uint32(2)           // XFS_FSOP_GOING_FLAGS_NOLOGFLUSH
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), goingDown, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		tb.Fatal(errno)
	}
}
