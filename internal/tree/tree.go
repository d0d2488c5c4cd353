// Package tree copies, compares, measures and streams file trees completely, as root, regardless of what a container
// has put into them. Backends copy, measure and remove the trees of datasets with it. The agent imports, exports,
// transfers and backs up volumes with it (agent/operation, agent/move, agent/backup). The package has no state
// between calls. What a node of a tree consists of is in node.go and meta.go. Copy, Compare, Usage and Remove
// are in the files with their names (how Compare compares contents is in contents.go), and tar archives in tarread.go,
// tarwrite.go, tarheader.go and tarsparse.go.
//
// # What a tree is
//
// A tree is the content of an open directory, and that directory's own owner, mode, times and extended attributes. It
// consists of regular files with their content, holes and hard links, and of directories, symbolic links, FIFOs,
// sockets and device nodes. All have numeric owners, all mode bits, times in nanoseconds, and extended attributes of
// all namespaces, which include POSIX ACLs and file capabilities. Names are bytes. Inode flags (chattr), the attributes
// btrfs.* (settings of one filesystem), and the times of status change and birth are not part of a tree.
//
// # Mounts inside a tree
//
// Every function except Remove works on a private copy of the mount that contains the directory (open_tree(2)). Mounts
// inside the tree are therefore not visible: the functions read and write the directories that such mounts cover. If a
// private copy is not possible (the mount is detached, before Linux 6.15), the directory is used directly: a mount
// point inside it is an error, and reading may change access times. Remove always uses the directory directly.
//
// # Hostile content
//
// Every name is opened separately, relative to its directory, with openat2(2) and without following symbolic links. The
// checks and reads then use that descriptor. FIFOs, sockets and device nodes are never opened. If a tree changes
// meanwhile, the result is a mixture of its states, and names that disappear are left out. Nothing outside of the tree
// is ever read or changed.
package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// maxDepth is the maximum depth of directories: one more than PATH_MAX can name. Each level needs two descriptors.
const maxDepth = 2049

// Option changes the behaviour of a function of this package.
type Option func(*options)

type options struct {
	sync       bool
	skipped    func(path string)
	forReadTar bool
}

// WithSync makes Copy and ReadTar flush the filesystem of their destination
// before they return (syncfs), so that the written files survive a power cut.
func WithSync() Option { return func(o *options) { o.sync = true } }

// WithSkipped makes WriteTar call f with the path of everything that it leaves out.
func WithSkipped(f func(path string)) Option { return func(o *options) { o.skipped = f } }

// ForReadTar makes WriteTar write an archive that only ReadTar reads correctly. The archive contains sockets, which tar
// cannot represent, and a map for each sparse file (tarsparse.go), so that ReadTar need not read the holes as zeros.
func ForReadTar() Option { return func(o *options) { o.forReadTar = true } }

func optionsOf(opts []Option) options {
	o := options{skipped: func(string) {}}
	for _, f := range opts {
		f(&o)
	}
	return o
}

// root is a directory to work in. dir is open for reading.
type root struct {
	dir   *os.File
	mount int // descriptor of the private mount, or -1
}

// access is the purpose for which a root is opened.
type access int

const (
	readOnly access = iota
	writable
)

// openRoot opens dir again in a private mount. The mounts inside are not visible and device nodes cannot be opened. For
// readers the mount is read-only, so access times do not change.
func openRoot(dir *os.File, a access) (*root, error) {
	mount, err := unix.OpenTree(int(dir.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EINVAL) {
		return reopen(int(dir.Fd()), -1, dir.Name())
	}
	if err != nil {
		return nil, fmt.Errorf("create a private mount of %q: %w", dir.Name(), err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if a == readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOATIME
		attr.Attr_clr |= unix.MOUNT_ATTR__ATIME
	}
	if err := unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		_ = unix.Close(mount)
		return nil, fmt.Errorf("set up a private mount of %q: %w", dir.Name(), err)
	}
	return reopen(mount, mount, dir.Name())
}

func reopen(at, mount int, name string) (*root, error) {
	fd, err := openAt(at, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		if mount >= 0 {
			_ = unix.Close(mount)
		}
		return nil, fmt.Errorf("open directory %q: %w", name, err)
	}
	return &root{os.NewFile(uintptr(fd), name), mount}, nil
}

func (r *root) close() {
	_ = r.dir.Close()
	if r.mount >= 0 {
		_ = unix.Close(r.mount)
	}
}

// openAt opens one name in a directory. It never follows a symbolic link, a mount point or a magic link, and never
// leaves the directory.
func openAt(dir int, name string, flags int) (int, error) {
	how := unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS |
			unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		// EAGAIN means that something was renamed meanwhile, so that the kernel could not exclude an escape. Retry
		// (openat2(2)).
		fd, err := unix.Openat2(dir, name, &how)
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// requireEmpty fails with dataset.ErrExists unless dir is empty.
func requireEmpty(dir *os.File) error {
	names, err := readNames(dir)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return dataset.Errorf(dataset.ErrExists, "destination %q contains %q: expected an empty directory", dir.Name(),
			names[0])
	}
	return nil
}

// readNames returns the names in a directory, sorted by their bytes. It always reads from the beginning.
func readNames(dir *os.File) ([]string, error) {
	if _, err := dir.Seek(0, 0); err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(-1)
	if err != nil && !isVanished(err) { // a removed directory counts as empty
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

// A folder can have any number of names. Only those who need an order read all of them at once.
const (
	fewNames = 100
	allNames = -1
)

// names yields the names in a directory from its beginning. It reads count of them at a time, and sorts these.
func names(dir *os.File, count int) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		_, err := dir.Seek(0, 0)
		for more := true; more && err == nil; {
			var part []string
			part, err = dir.Readdirnames(count)
			more = count > 0 && len(part) > 0 // what was created meanwhile can be a name that was read
			slices.Sort(part)
			for _, name := range part {
				if !yield(name, nil) {
					return
				}
			}
		}
		if err != nil && !errors.Is(err, io.EOF) && !isVanished(err) { // a removed directory counts as empty
			yield("", err)
		}
	}
}

// wrapError returns an error with the action and the path, which is a string or a place. For a full disk or quota it is
// dataset.ErrNoSpace.
func wrapError(action string, name any, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var known *pathError
	if errors.As(err, &known) {
		return err
	}
	var inner *fs.PathError
	if errors.As(err, &inner) {
		err = inner.Err // its path is only the last element
	}
	if errors.Is(err, unix.EXDEV) {
		err = fmt.Errorf("crosses a mount point (unmount what is mounted there): %w", err)
	}
	kind := dataset.KindOf(err)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		kind = dataset.ErrNoSpace
	}
	return dataset.Errorf(kind, "%w", &pathError{action, fmt.Sprint(name), err})
}

// pathError is an error with the path at which it occurred. Callers further up do not add another path.
type pathError struct {
	what, name string
	err        error
}

func (e *pathError) Error() string {
	return e.what + " " + strconv.Quote(dataset.Clip(e.name)) + ": " + e.err.Error()
}
func (e *pathError) Unwrap() error { return e.err }

// place is a path in a tree, or nil for the root. The places in one directory share their parents: a path can have half
// a megabyte, and a container chooses how many of them must be remembered.
type place struct {
	parent *place
	name   string
}

// String returns the path. That of the root is ".".
func (p *place) String() string {
	if p == nil {
		return "."
	}
	var names []string
	for ; p != nil; p = p.parent {
		names = append(names, p.name)
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}

// tooDeep fails for a directory whose content would be deeper than maxDepth.
func (p *place) tooDeep() error {
	depth := 0
	for ; p != nil; p = p.parent {
		depth++
	}
	if depth < maxDepth {
		return nil
	}
	return dataset.Errorf(dataset.ErrUnsupported, "directories nest deeper than %d", maxDepth)
}
