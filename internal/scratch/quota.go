package scratch

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	iocQuotaControl = 0xC0109428 // _IOWR(0x94, 40, struct btrfs_ioctl_quota_ctl_args)
	quotaFull       = 1          // BTRFS_QUOTA_CTL_ENABLE
	quotaSimple     = 4          // BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA
)

// Quota enables quotas of the btrfs at path, "full" or "simple", and waits until they have counted the existing data.
func Quota(tb testing.TB, path, mode string) {
	tb.Helper()
	command, ok := map[string]uint64{"full": quotaFull, "simple": quotaSimple}[mode]
	if !ok {
		tb.Fatalf("scratch: unknown quotas %q (available: full, simple)", mode)
	}
	dir, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer dir.Close()
	args := [2]uint64{command}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), iocQuotaControl,
		uintptr(unsafe.Pointer(&args))); errno != 0 {
		tb.Fatalf("scratch: %s quotas on %s: %v", mode, path, errno)
	}
	if mode == "full" {
		Run(tb, "btrfs", "quota", "rescan", "-w", path)
	}
}
