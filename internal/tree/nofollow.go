package tree

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// NoFollow returns a new mount of dir for a program that writes files below it: a descriptor with O_PATH, which
// mount.InNamespace takes. The mount follows no symbolic link, opens no device node, and runs no program: the program
// can still create all of them. It fails if dir is in a mount that cannot be mounted again (open_tree(2)). Needs root
// and Linux 5.14.
func NoFollow(dir *os.File) (*os.File, error) {
	fd, err := unix.OpenTree(int(dir.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|
		unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("%s cannot be opened without following links: it is in an unbindable mount (mount "+
			"--make-private MOUNTPOINT changes that): %w", dir.Name(), err)
	}
	if err == nil {
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{
			Attr_set: unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC |
				unix.MOUNT_ATTR_NOSYMFOLLOW,
		})
		if err != nil {
			_ = unix.Close(fd)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("create a mount of %s that follows no links: %w", dir.Name(), err)
	}
	return os.NewFile(uintptr(fd), dir.Name()), nil
}
