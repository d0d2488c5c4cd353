package loopdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The kernel turns a discard on a loop device into a hole in its file. No flag of the device and
// no option of a mount keeps fstrim(8) from sending discards: only the limit in sysfs does.
//
// The limit belongs to the number of the device, not to the file. Since Linux 6.9, the next file on that number has the
// same limit. Since 6.12, the limit cannot be raised again: the kernel requires a multiple of discard_granularity,
// which is 0 then. Only removing the number resets the limit.

// DisableDiscard makes the device at path, such as /dev/loop3, refuse discards. It is idempotent. The setting belongs
// to the number of the device. Once the device has no file, Remove removes the number with its settings, so that a new
// device with this number accepts discards again.
func DisableDiscard(path string) error {
	limit := discardLimit(path)
	err := os.WriteFile(limit, []byte("0"), 0)
	if err == nil {
		var left uint64
		if left, err = readLimit(limit); err == nil && left != 0 {
			err = fmt.Errorf("%s is %d after writing 0", limit, left)
		}
	}
	if err != nil {
		return fmt.Errorf("disable discards of %s: %w", path, err)
	}
	return nil
}

// Remove removes the number of a device that has no file, and with it all settings that the device was given. It
// returns unix.EBUSY while the device is open or has a file, and nil if there is no such device.
func Remove(path string) error {
	n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(path), "loop"))
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	ctl, err := os.OpenFile(devDir+"/loop-control", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	defer ctl.Close()
	if err := unix.IoctlSetInt(int(ctl.Fd()), unix.LOOP_CTL_REMOVE, n); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// refusesDiscards reports whether a device that has just got its file refuses discards because of the earlier file of
// this number. It returns false if sysfs does not show the limit.
func refusesDiscards(path string) bool {
	limit, err := readLimit(discardLimit(path))
	if err != nil || limit > 0 {
		return false
	}
	able, err := readLimit(filepath.Join(filepath.Dir(discardLimit(path)), "discard_max_hw_bytes"))
	return err == nil && able > 0
}

func discardLimit(path string) string {
	return filepath.Join("/sys/block", filepath.Base(path), "queue/discard_max_bytes")
}

func readLimit(file string) (uint64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}
