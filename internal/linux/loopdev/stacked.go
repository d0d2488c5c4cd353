package loopdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// sysBlock has a directory for each block device of the host.
const sysBlock = "/sys/block"

// Stacked returns the devices that are built directly on a loop device or on its partitions, such as a device of
// device-mapper or a RAID. A device of device-mapper is returned as /dev/mapper/NAME. The result is empty if there are
// none, or if the loop device is gone.
func Stacked(number int) ([]string, error) { return stackedOn(sysBlock, fmt.Sprintf("loop%d", number)) }

// stackedOn is Stacked for a device in the directory sys.
func stackedOn(sys, device string) (list []string, err error) {
	for _, pattern := range []string{"holders/*", device + "p*/holders/*"} {
		found, err := filepath.Glob(filepath.Join(sys, device, pattern))
		if err != nil {
			return nil, fmt.Errorf("list the devices on %s: %w", device, err)
		}
		for _, holder := range found {
			name := filepath.Base(holder)
			mapped, err := os.ReadFile(filepath.Join(sys, name, "dm/name"))
			switch {
			case err == nil:
				name = "mapper/" + strings.TrimSuffix(string(mapped), "\n")
			case !errors.Is(err, os.ErrNotExist): // without that file it is not a device of device-mapper
				return nil, fmt.Errorf("list the devices on %s: %w", device, err)
			}
			list = append(list, "/dev/"+name)
		}
	}
	return list, nil
}
