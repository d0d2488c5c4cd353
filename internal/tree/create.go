package tree

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// createFile creates a regular file that at first only root can open.
func createFile(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC,
		0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// makeDir creates a directory that at first only root can enter, and opens it. The caller closes both results.
func makeDir(dir *os.File, name string) (*node, *os.File, error) {
	if err := unix.Mkdirat(int(dir.Fd()), name, 0o700); err != nil {
		return nil, nil, err
	}
	n, err := openNode(dir, name)
	if err != nil {
		return nil, nil, err
	}
	f, err := n.openDir()
	if err != nil {
		n.close()
		return nil, nil, err
	}
	return n, f, nil
}

// makeSpecial creates an inode that is neither a file nor a directory, without opening it.
func makeSpecial(dir *os.File, name string, format uint32, rdev uint64, target func() (string, error)) error {
	switch format {
	case unix.S_IFLNK:
		to, err := target()
		if err != nil {
			return err
		}
		return unix.Symlinkat(to, int(dir.Fd()), name)
	case unix.S_IFIFO, unix.S_IFSOCK:
		return unix.Mknodat(int(dir.Fd()), name, format|0o600, 0)
	case unix.S_IFCHR, unix.S_IFBLK:
		return unix.Mknodat(int(dir.Fd()), name, format|0o600, int(rdev))
	}
	return fmt.Errorf("unknown kind of file %#o", format)
}

// linkInto creates a hard link to the inode at a path below root. The inode is pinned while the path is followed, so
// that no symbolic link can take its place.
func linkInto(root *os.File, first string, dir *os.File, name string) error {
	n, err := openPath(root, first)
	if err != nil {
		return fmt.Errorf("link to %q: %w", first, err)
	}
	defer n.close()
	// Link through the path in /proc, because AT_EMPTY_PATH needs another capability.
	if err := unix.Linkat(unix.AT_FDCWD, n.procPath(), int(dir.Fd()), name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return fmt.Errorf("link to %q: %w", first, err)
	}
	return nil
}

// openPath pins the inode at a path below root. A path that is too long for one call is resolved in parts.
func openPath(root *os.File, name string) (*node, error) {
	at, err := openNode(root, ".")
	if err != nil {
		return nil, err
	}
	for rest := name; rest != ""; {
		part := rest
		if len(part) >= unix.PathMax {
			if end := strings.LastIndexByte(part[:unix.PathMax], '/'); end > 0 {
				part = part[:end]
			}
		}
		rest = strings.TrimPrefix(rest[len(part):], "/")
		fd, err := openAt(at.fd, part, unix.O_PATH)
		at.close()
		if err != nil {
			return nil, err
		}
		at = &node{fd: fd}
	}
	if err := unix.Fstat(at.fd, &at.st); err != nil {
		at.close()
		return nil, err
	}
	return at, nil
}
