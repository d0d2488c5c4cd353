package tree

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// NoFollow opens dir again in a mount that follows no symbolic link, for a program that writes files below it. root is
// dir, or a folder above dir. If root is itself in a private mount, the mount of root gets this property for good.
//
// The kernel does this since Linux 5.14. NoFollow has no effect on an older one.
func NoFollow(root, dir *os.File) (*os.File, error) {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSYMFOLLOW}
	fd, err := unix.OpenTree(int(dir.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EINVAL) { // root is in a private mount, which can be cloned since Linux 6.15
		err = unix.MountSetattr(int(root.Fd()), "", unix.AT_EMPTY_PATH, &attr)
		if err == nil || errors.Is(err, unix.EINVAL) {
			fd, err = openAt(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY)
		}
	} else if err == nil {
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr)
		if errors.Is(err, unix.EINVAL) {
			err = nil
		}
		if err != nil {
			_ = unix.Close(fd)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("create a mount of %q that follows no links: %w", dir.Name(), err)
	}
	return os.NewFile(uintptr(fd), dir.Name()), nil
}
