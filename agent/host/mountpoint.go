package host

import (
	"errors"
	"fmt"

	"github.com/droverhq/drover/internal/linux/mount"
	"golang.org/x/sys/unix"
)

// IsMountPoint asks the kernel whether a mount's root is seen at path. No path:
// no.
func IsMountPoint(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if errors.Is(err, unix.EIO) { // the answer of an XFS that was shut down
		table, terr := mount.Table()
		if terr == nil && table.At(path) != nil {
			return true, nil
		}
		err = errors.Join(err, terr)
	}
	if err != nil {
		return false, fmt.Errorf("look at %s: %w", path, err)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}
