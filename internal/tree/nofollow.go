package tree

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// NoFollow opens dir again in a mount for a program that writes files below it. The mount follows no symbolic link, and
// opens no device node: the program can still create both. root is dir, or a folder above dir. A private mount cannot
// be opened again (open_tree(2)): it must open no device nodes already, as that of mounting.OpenRoot.
//
// Before Linux 5.14, the kernel cannot keep links from being followed.
func NoFollow(root, dir *os.File) (*os.File, error) {
	fd, err := unix.OpenTree(int(dir.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|
		unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if errors.Is(err, unix.EINVAL) {
		var fs unix.Statfs_t
		if serr := unix.Fstatfs(int(root.Fd()), &fs); serr != nil || fs.Flags&unix.ST_NODEV == 0 {
			return nil, fmt.Errorf("%q is in a private mount that follows links: %w", dir.Name(),
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

// disarm makes a mount, and the mounts below, follow no links, open no devices and run no programs.
func disarm(mount int) error {
	const always = unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC
	attr := unix.MountAttr{Attr_set: always | unix.MOUNT_ATTR_NOSYMFOLLOW}
	err := unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
	if errors.Is(err, unix.EINVAL) {
		attr.Attr_set = always
		err = unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
	}
	return err
}
