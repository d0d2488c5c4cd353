package tree

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

const aclDefault = "system.posix_acl_default"

// xattr is one extended attribute.
type xattr struct {
	name  string
	value []byte
}

// meta is the metadata of an inode.
type meta struct {
	uid, gid     int
	mode         uint32
	atime, mtime unix.Timespec
	xattrs       []xattr // by name
}

// meta reads the metadata of the inode.
func (n *node) meta() (meta, error) {
	x, err := readXattrs(n.procPath())
	return meta{
		uid: int(n.st.Uid), gid: int(n.st.Gid), mode: n.st.Mode &^ unix.S_IFMT,
		atime: n.st.Atim, mtime: n.st.Mtim, xattrs: x,
	}, err
}

// apply sets the metadata of an inode to m. The order matters: changing the owner clears the set-user-ID bits and file
// capabilities (chown(2)), an ACL changes mode bits too, and all changes except that of times change the times.
func (n *node) apply(m meta) error {
	if err := unix.Fchownat(n.fd, "", m.uid, m.gid, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", m.uid, m.gid, err)
	}
	if n.format() != unix.S_IFLNK {
		if err := unix.Chmod(n.procPath(), m.mode); err != nil {
			return fmt.Errorf("set mode %04o: %w", m.mode, err)
		}
	}
	for _, x := range m.xattrs {
		if err := unix.Setxattr(n.procPath(), x.name, x.value, 0); err != nil {
			return fmt.Errorf("set attribute %q: %w", x.name, err)
		}
	}
	return n.setTimes(m)
}

func (n *node) setTimes(m meta) error {
	times := []unix.Timespec{m.atime, m.mtime}
	if err := unix.UtimesNanoAt(n.fd, "", times, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// strip removes the attributes that an inode has and m does not contain. It keeps the labels of security modules, which
// belong to the host.
func (n *node) strip(m meta) error {
	existing, err := readXattrs(n.procPath())
	if err != nil {
		return err
	}
	for _, x := range existing {
		wanted := slices.ContainsFunc(m.xattrs, func(y xattr) bool { return y.name == x.name })
		if wanted || isOfHost(x.name) {
			continue
		}
		if err := unix.Removexattr(n.procPath(), x.name); err != nil && err != unix.ENODATA {
			return fmt.Errorf("remove attribute %q: %w", x.name, err)
		}
	}
	return nil
}

// isOfHost reports whether an attribute is the label of a security module.
func isOfHost(name string) bool {
	return strings.HasPrefix(name, "security.") && name != "security.capability"
}

// replace sets the metadata of an inode to m, and removes the attributes that m does not contain: a new inode inherits
// the default ACL of its directory.
func (n *node) replace(m meta) error {
	if err := n.strip(m); err != nil {
		return err
	}
	return n.apply(m)
}

// dropDefaultACL removes the ACL that every new inode in dir would inherit.
func dropDefaultACL(dir *os.File) error {
	err := unix.Fremovexattr(int(dir.Fd()), aclDefault)
	if err != nil && err != unix.ENODATA && err != unix.EOPNOTSUPP {
		return wrapError("remove the default ACL of", ".", err)
	}
	return nil
}

// maxXattrs bounds the values of the attributes of an inode, which are in memory together. XFS has no bound. restic,
// too, has them in memory, several times.
const maxXattrs = 16 << 20

// readXattrs returns the attributes of the inode at a path in /proc. It skips attributes that disappear meanwhile, and
// returns none if the filesystem does not support them.
func readXattrs(procPath string) ([]xattr, error) {
	list, err := grow(func(buf []byte) (int, error) { return unix.Listxattr(procPath, buf) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if errors.Is(err, unix.E2BIG) {
		return nil, dataset.Errorf(dataset.ErrUnsupported, "the names of its attributes have more than 64KiB, and "+
			"Linux lists no more (remove some: setfattr --remove)")
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	var xs []xattr
	total := 0
	for name := range strings.SplitSeq(string(list), "\x00") {
		if name == "" || isFilesystemAttribute(name) {
			continue
		}
		value, err := grow(func(buf []byte) (int, error) { return unix.Getxattr(procPath, name, buf) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read attribute %q: %w", name, err)
		}
		if total += len(value); total > maxXattrs {
			return nil, dataset.Errorf(dataset.ErrUnsupported, "its attributes have more than %s (remove some: "+
				"setfattr --remove)", dataset.Size(maxXattrs).Human())
		}
		xs = append(xs, xattr{name, value})
	}
	slices.SortFunc(xs, func(a, b xattr) int { return strings.Compare(a.name, b.name) })
	return xs, nil
}

// isFilesystemAttribute reports whether an attribute belongs to a filesystem and not to the tree: settings of btrfs;
// the ACLs of XFS, which XFS lists a second time in its own encoding; and the ACLs of NFS, which every file has because
// of its mode and which cannot be removed.
func isFilesystemAttribute(name string) bool {
	return strings.HasPrefix(name, "btrfs.") || strings.HasPrefix(name, "trusted.SGI_ACL_") ||
		strings.HasPrefix(name, "system.nfs4_")
}

// grow calls f, which fills a buffer, with larger buffers until the result fits. Linux limits a list and a value to 64
// KiB (xattr(7)).
func grow(f func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := f(buf)
		if errors.Is(err, unix.ERANGE) && size < 1<<20 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return bytes.Clone(buf[:n]), nil
	}
}
