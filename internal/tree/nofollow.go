package tree

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// NoFollow opens dir again in a mount for a program that writes files below it. The mount follows no symbolic link, and
// opens no device node: the program can still create both. root is dir, or a folder above dir. If root is itself in a
// private mount, the mount of root gets these properties for good.
//
// Before Linux 5.14, the kernel cannot keep links from being followed.
func NoFollow(root, dir *os.File) (*os.File, error) {
	fd, err := unix.OpenTree(int(dir.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|
		unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if errors.Is(err, unix.EINVAL) { // root is in a private mount, which can be cloned since Linux 6.15
		if err = disarm(int(root.Fd()), 0); err == nil {
			fd, err = openAt(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY)
		}
	} else if err == nil {
		if err = disarm(fd, unix.AT_RECURSIVE); err != nil {
			_ = unix.Close(fd)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("create a mount of %q that follows no links: %w", dir.Name(), err)
	}
	return os.NewFile(uintptr(fd), dir.Name()), nil
}

// disarm makes a mount follow no links, open no devices and run no programs. With the flag AT_RECURSIVE, it does the
// same for the mounts below.
func disarm(mount int, flags uint) error {
	const always = unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC
	attr := unix.MountAttr{Attr_set: always | unix.MOUNT_ATTR_NOSYMFOLLOW}
	err := unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH|flags, &attr)
	if errors.Is(err, unix.EINVAL) {
		attr.Attr_set = always
		err = unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH|flags, &attr)
	}
	return err
}
