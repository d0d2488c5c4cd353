package tree

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// NoFollow opens dir again in a mount for a program that writes files below it. The mount follows no symbolic link, and
// opens no device node: the program can still create both. root is dir, or a folder above dir. A private mount cannot
// be opened again (open_tree(2)): it must have these restrictions already, as that of mounting.OpenRoot.
func NoFollow(root, dir *os.File) (*os.File, error) {
	fd, err := unix.OpenTree(int(dir.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|
		unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if errors.Is(err, unix.EINVAL) {
		var fs unix.Statfs_t
		if serr := unix.Fstatfs(int(root.Fd()), &fs); serr != nil || fs.Flags&restricted != restricted {
			return nil, fmt.Errorf("%q is in a private mount that follows links or opens devices: %w", dir.Name(),
				errors.Join(err, serr))
		}
		fd, err = openAt(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY)
	} else if err == nil {
		if err = disarm(fd); err != nil {
			_ = unix.Close(fd)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("create a mount of %q that follows no links: %w", dir.Name(), err)
	}
	return os.NewFile(uintptr(fd), dir.Name()), nil
}

// restricted are the flags of statfs(2) of a mount that follows no links and opens no devices.
const restricted = unix.ST_NODEV | stNoSymFollow

// stNoSymFollow is ST_NOSYMFOLLOW of statfs(2).
const stNoSymFollow = 0x2000

// disarm makes a mount, and the mounts below, follow no links, open no devices and run no programs.
func disarm(mount int) error {
	return unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW,
	})
}
