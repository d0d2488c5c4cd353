package tree

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// node is one inode of a tree, pinned by a descriptor that neither reads nor
// writes it (O_PATH): all requests are about that inode, even if its name changes.
type node struct {
	fd int
	st unix.Stat_t
}

// inode identifies an inode, to find hard links by. Its number alone does not: in a
// tree that is in use a new file may have that of one that is gone.
type inode struct {
	dev, ino uint64
	born     unix.StatxTimestamp // zero where the filesystem does not know
}

// openNode pins the inode with that name in dir. A name that vanished is ErrNotExist.
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

func (n *node) close()         { _ = unix.Close(n.fd) }
func (n *node) format() uint32 { return n.st.Mode & unix.S_IFMT }
func (n *node) isDir() bool    { return n.format() == unix.S_IFDIR }

// inode is only worth its system call for inodes with several links.
func (n *node) inode() inode {
	var st unix.Statx_t
	_ = unix.Statx(n.fd, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &st) // which leaves zero where it fails
	return inode{n.st.Dev, n.st.Ino, st.Btime}
}

// linked says whether the inode may have other names in the tree.
func (n *node) linked() bool { return !n.isDir() && n.st.Nlink > 1 }

// allocated is how many bytes the inode takes on disk.
func (n *node) allocated() int64 { return n.st.Blocks * 512 }

// magic is a path that leads to exactly this inode: the calls that know no
// descriptors of the O_PATH kind (setxattr, chmod) take it, and open(2) through
// it cannot end at anything else. See proc_pid_fd(5).
func (n *node) magic() string { return magic(n.fd) }

func magic(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// openFile opens a regular file's bytes for reading.
func (n *node) openFile() (*os.File, error) {
	fd, err := unix.Open(n.magic(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), ""), nil
}

// openDir opens a directory for reading.
func (n *node) openDir() (*os.File, error) {
	fd, err := openAt(n.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), ""), nil
}

// readLink returns a symlink's target, which is bytes and is never looked at.
func (n *node) readLink() (string, error) {
	buf := make([]byte, unix.PathMax)
	size, err := unix.Readlinkat(n.fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:size]), nil
}

// vanished says whether a name is gone that was there when its directory was
// read: the tree is in use, and is copied as if it had been gone before.
func vanished(err error) bool { return errors.Is(err, unix.ENOENT) }
