package host

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/mount"
)

// IsMountPoint asks the kernel whether path is the root of a mount. If path does not exist, it is not.
func IsMountPoint(path string) (bool, error) {
	var st unix.Statx_t
	const flags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
	err := unix.Statx(unix.AT_FDCWD, path, flags, unix.STATX_TYPE, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if errors.Is(err, unix.EIO) { // an XFS that was shut down answers EIO
		table, terr := mount.Table()
		if terr == nil && table.At(path) != nil {
			return true, nil
		}
		err = errors.Join(err, terr)
	}
	if err != nil {
		return false, fmt.Errorf("stat %s: %w", path, err)
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}
