package tree

import (
	"errors"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// node is one inode of a tree, pinned by an O_PATH descriptor. All requests concern that inode, even if its name
// changes.
type node struct {
	fd int
	st unix.Stat_t
}

// inode identifies an inode, to find hard links. The inode number alone is not sufficient: in a tree that is in use, a
// new file can get the number of a removed one.
type inode struct {
	dev, ino uint64
	born     unix.StatxTimestamp // zero if the filesystem does not record it
}

// openNode pins the inode that name refers to in dir. It fails with ErrNotExist if the name no longer exists.
func openNode(dir *os.File, name string) (*node, error) {
	fd, err := openAt(int(dir.Fd()), name, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	n := &node{fd: fd}
	if err := unix.Fstat(fd, &n.st); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// opening is a directory whose names are opened one after the other. It belongs to one goroutine.
type opening struct {
	*os.File
	gone []string // the names that did not exist when they were opened
}

// open is openNode.
func (l *opening) open(name string) (*node, error) {
	n, err := openNode(l.File, name)
	if isVanished(err) {
		l.gone = append(l.gone, name)
	}
	return n, err
}

// checkGone fails with dataset.ErrCorrupt if the directory, whose place is at, is damaged: it still lists a name that
// "does not exist". Otherwise the names were removed: the tree is in use, and is read as if they had never existed.
func (l *opening) checkGone(at *place) error {
	for tries := 10; len(l.gone) > 0; tries-- { // a process can make a name and remove it all the time
		if tries == 0 {
			return wrapError("open", &place{at, l.gone[0]}, dataset.Errorf(dataset.ErrCorrupt, "its directory has "+
				"it, but it cannot be opened: the filesystem is damaged (unmount it, and check it with fsck)"))
		}
		fd, err := openAt(int(l.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return wrapError("read directory", at, err)
		}
		dir := os.NewFile(uintptr(fd), l.Name())
		names, err := readNames(dir)
		if err = errors.Join(err, dir.Close()); err != nil {
			return wrapError("read directory", at, err)
		}
		again := opening{File: l.File}
		for _, name := range l.gone {
			if _, listed := slices.BinarySearch(names, name); !listed {
				continue
			}
			n, err := again.open(name)
			if err == nil {
				n.close()
			} else if !isVanished(err) {
				return wrapError("open", &place{at, name}, err)
			}
		}
		l.gone = again.gone
	}
	return nil
}

func (n *node) close()         { _ = unix.Close(n.fd) }
func (n *node) format() uint32 { return n.st.Mode & unix.S_IFMT }
func (n *node) isDir() bool    { return n.format() == unix.S_IFDIR }

// inode returns the identity of n. It takes a system call, so call it only for inodes with several links.
func (n *node) inode() inode {
	var st unix.Statx_t
	_ = unix.Statx(n.fd, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &st) // st stays zero if it fails
	return inode{n.st.Dev, n.st.Ino, st.Btime}
}

// mayHaveLinks reports whether the inode may have other names in the tree.
func (n *node) mayHaveLinks() bool { return !n.isDir() && n.st.Nlink > 1 }

// allocated returns how many bytes the inode uses on disk.
func (n *node) allocated() int64 { return n.st.Blocks * 512 }

// procPath returns a path in /proc that leads to exactly this inode. Calls that do not accept O_PATH descriptors
// (setxattr, chmod) use it, and so does open(2), which then cannot open another inode. See proc_pid_fd(5).
func (n *node) procPath() string { return procPath(n.fd) }

func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// openFile opens a regular file for reading. It does not wait for a process that has a lease on the file (fcntl(2)):
// with one such process, each open would take 45 s.
func (n *node) openFile() (*os.File, error) {
	fd, err := unix.Open(n.procPath(), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == unix.EWOULDBLOCK {
		return nil, dataset.Errorf(dataset.ErrInUse, "a process has a lease on it (see fcntl(2)): end the process")
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), ""), nil
}

func (n *node) openDir() (*os.File, error) {
	fd, err := openAt(n.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), ""), nil
}

// readLink returns the target of a symbolic link as bytes. It does not follow the link.
func (n *node) readLink() (string, error) {
	buf := make([]byte, unix.PathMax)
	size, err := unix.Readlinkat(n.fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:size]), nil
}

// isVanished reports whether an error means that a name was removed after its directory was read. The tree is in use,
// and is copied as if the name had never existed.
func isVanished(err error) bool { return errors.Is(err, unix.ENOENT) }
