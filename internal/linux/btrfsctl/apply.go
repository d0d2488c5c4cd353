package btrfsctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/fsctl"
)

// Apply applies a stream of Send to the subvolume whose root is dir. A stream is full, or a difference to a base. For a
// full stream, dir is empty and base is nil. For a difference, dir is a writable snapshot of base. Apply checks that
// the stream is a difference to base: the stream names its base by the UUID of the subvolume, or by the UUID with which
// the subvolume was received. At the end of a stream of either kind, dir is marked as received with the UUID of the
// sent subvolume.
//
// No path of the stream can lead out of dir. Apply returns ErrStream if the stream does not fit dir or ends early, and
// ErrBase if it does not fit base. After an error, dir contains a part of the changes.
func Apply(ctx context.Context, r io.Reader, dir, base *os.File) error {
	in, err := newCommands(r)
	if err != nil {
		return err
	}
	a := &applying{dir: dir, base: base}
	defer func() { _ = a.close() }()
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		var cmd command
		if err := in.next(&cmd); err != nil {
			return fmt.Errorf("%w: it ended early: %w", ErrStream, err)
		}
		if cmd.kind == cmdEnd {
			return errors.Join(a.close(), setReceived(dir, a.self))
		}
		if err := a.apply(ctx, &cmd, n == 0); err != nil {
			return fmt.Errorf("command %d of the stream, of kind %d for %q: %w", n, cmd.kind, cmd.attr[attrPath], err)
		}
	}
}

// applying is one run of Apply.
type applying struct {
	dir, base    *os.File
	self, parent uuid.UUID // the UUIDs of dir and base in the stream

	open *os.File // for writing
	path string   // path of the open file

	parentDir  *os.File // the directory that withParent opened last
	parentPath string   // its path in the stream
}

func (a *applying) close() error {
	var err error
	if a.open != nil {
		err = a.open.Close()
		a.open = nil
	}
	if a.parentDir != nil {
		err = errors.Join(err, a.parentDir.Close())
		a.parentDir = nil
	}
	return err
}

func (a *applying) apply(ctx context.Context, c *command, first bool) error {
	if first != (c.kind == cmdSubvolume || c.kind == cmdSnapshot) {
		return fmt.Errorf("%w: only its first command may name its subvolume", ErrStream)
	}
	err := a.execute(ctx, c)
	for _, stale := range []error{unix.ENOENT, unix.EEXIST, unix.ENOTDIR, unix.EISDIR, unix.ENOTEMPTY, unix.ELOOP,
		unix.EXDEV, unix.EINVAL, unix.ENODATA} {
		if errors.Is(err, stale) {
			return fmt.Errorf("%w: %w", ErrStream, err)
		}
	}
	return err
}

func (a *applying) act(ctx context.Context, c *command) error {
	switch c.kind {
	case cmdSubvolume, cmdSnapshot:
		return a.begin(c)
	case cmdWrite:
		at := int64(c.number(attrOffset))
		f, err := a.file(c.text(attrPath))
		if err = errors.Join(c.err, err); err != nil {
			return err
		}
		_, err = f.WriteAt(c.attr[attrData], at)
		return err
	case cmdClone:
		return a.clone(ctx, c)
	case cmdTruncate:
		size := int64(c.number(attrSize))
		f, err := a.file(c.text(attrPath))
		if err = errors.Join(c.err, err); err != nil {
			return err
		}
		return f.Truncate(size)
	case cmdMkfile, cmdMkdir, cmdMknod, cmdMkfifo, cmdMksock, cmdSymlink:
		return a.withParent(c.text(attrPath), func(dir int, name string) error {
			if err := createInode(c, dir, name); err != nil || c.kind == cmdSymlink {
				return err
			}
			return removeInheritedACLs(dir, name)
		})
	case cmdRename, cmdLink, cmdUnlink, cmdRmdir:
		return a.changeName(c)
	case cmdSetXattr, cmdRemoveXattr, cmdChmod, cmdChown, cmdUtimes:
		return a.withParent(c.text(attrPath), func(dir int, name string) error { return a.setAttribute(c, dir, name) })
	}
	return fmt.Errorf("%w: a command of unknown kind", ErrStream)
}

// begin reads the first command of the stream, which names the subvolume and its parent.
func (a *applying) begin(c *command) error {
	a.self = c.uuid(attrUUID)
	if (c.kind == cmdSnapshot) != (a.base != nil) {
		return fmt.Errorf("%w: a full stream instead of a difference, or a difference instead of a full "+
			"stream", ErrStream)
	}
	if a.base == nil || c.err != nil {
		return c.err
	}
	if a.parent = c.uuid(attrCloneUUID); c.err != nil {
		return c.err
	}
	baseID, err := identity(a.base)
	if err == nil && baseID != a.parent {
		err = fmt.Errorf("%w: it is a difference to subvolume %s, and the base is %s", ErrBase, a.parent, baseID)
	}
	return err
}

// withParent opens the directory that contains a path, and calls do with it and the last name of the path. The name of
// the root is ".".
func (a *applying) withParent(path string, do func(dir int, name string) error) error {
	if path == "" {
		return do(int(a.dir.Fd()), ".")
	}
	parent, name := filepath.Dir(path), filepath.Base(path)
	if name == "." || name == ".." || name == "/" {
		return fmt.Errorf("%w: a bad path", ErrStream)
	}
	if a.parentDir == nil || a.parentPath != parent {
		dir, err := openBeneath(a.dir, parent, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		if a.parentDir != nil {
			_ = a.parentDir.Close()
		}
		a.parentDir, a.parentPath = dir, parent
	}
	return do(int(a.parentDir.Fd()), name)
}

// closeAfterMove closes the file and the directory that are kept open for the next command. It is called before a
// command that changes paths, because the paths that were recorded for the file and the directory may then belong to
// other files.
func (a *applying) closeAfterMove() error { return a.close() }

// openBeneath opens a path below a directory. Neither a symbolic link nor a mount can lead it elsewhere.
func openBeneath(dir *os.File, path string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), path, &unix.OpenHow{
		Flags:   flags | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// createInode creates an empty file, directory or other inode, as a command says.
func createInode(c *command, dir int, name string) error {
	switch c.kind {
	case cmdMkdir:
		return unix.Mkdirat(dir, name, 0o700)
	case cmdSymlink:
		return unix.Symlinkat(c.text(attrPathLink), dir, name)
	case cmdMkfile:
		return unix.Mknodat(dir, name, unix.S_IFREG|0o600, 0)
	case cmdMkfifo:
		return unix.Mknodat(dir, name, unix.S_IFIFO|0o600, 0)
	case cmdMksock:
		return unix.Mknodat(dir, name, unix.S_IFSOCK|0o600, 0)
	}
	mode, device := uint32(c.number(attrMode)), int(c.number(attrDevice))
	if c.err != nil {
		return c.err
	}
	return unix.Mknodat(dir, name, mode&unix.S_IFMT|0o600, device)
}

// removeInheritedACLs removes the ACLs that a new inode inherited from its directory. The stream sets the ACLs that the
// inode must have, but contains no command that removes an inherited ACL.
func removeInheritedACLs(dir int, name string) error {
	for _, acl := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
		err := unix.Lremovexattr(filepath.Join("/proc/self/fd", strconv.Itoa(dir), name), acl)
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
	}
	return nil
}

// changeName executes a command that creates, moves or removes a name.
func (a *applying) changeName(c *command) error {
	path := c.text(attrPath)
	if path == "" {
		return fmt.Errorf("%w: a name is missing", ErrStream)
	}
	if err := a.closeAfterMove(); err != nil {
		return err
	}
	return a.withParent(path, func(dir int, name string) error {
		switch c.kind {
		case cmdUnlink:
			return unix.Unlinkat(dir, name, 0)
		case cmdRmdir:
			return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
		}
		target := c.text(attrPathTo)
		if c.kind == cmdLink {
			target = c.text(attrPathLink)
		}
		other, err := openBeneath(a.dir, filepath.Dir(target), unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer other.Close()
		to := filepath.Base(target)
		if c.kind == cmdLink { // the new name is the path
			return unix.Linkat(int(other.Fd()), to, dir, name, 0)
		}
		return unix.Renameat(dir, name, int(other.Fd()), to)
	})
}

// setAttribute sets an extended attribute of a name. A symbolic link is never followed.
func (a *applying) setAttribute(c *command, dir int, name string) error {
	switch c.kind {
	case cmdChown:
		uid, gid := int(c.number(attrUID)), int(c.number(attrGID))
		if c.err != nil {
			return c.err
		}
		return unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	case cmdUtimes:
		times := []unix.Timespec{c.time(attrAtime), c.time(attrMtime)}
		if c.err != nil {
			return c.err
		}
		return unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW)
	case cmdChmod:
		return chmod(c, dir, name)
	}
	path := filepath.Join("/proc/self/fd", strconv.Itoa(dir), name)
	if name == "." {
		path += "/."
	}
	if c.kind == cmdRemoveXattr {
		return unix.Lremovexattr(path, c.text(attrXattrName))
	}
	return unix.Lsetxattr(path, c.text(attrXattrName), c.attr[attrXattrData], 0)
}

func chmod(c *command, dir int, name string) error {
	mode := uint32(c.number(attrMode))
	if c.err != nil {
		return c.err
	}
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return fmt.Errorf("%w: the mode of a symbolic link is set", ErrStream)
	}
	return unix.Chmod(filepath.Join("/proc/self/fd", strconv.Itoa(fd)), mode&0o7777)
}

// file opens a file for writing. The file stays open until another one is requested.
func (a *applying) file(path string) (*os.File, error) {
	if a.open != nil && a.path == path {
		return a.open, nil
	}
	if a.open != nil {
		if err := a.open.Close(); err != nil {
			return nil, err
		}
		a.open = nil
	}
	f, err := openRegular(a.dir, path, unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	a.open, a.path = f, path
	return f, nil
}

// openRegular opens a regular file below a directory. It opens no other kind of inode, because opening a device can
// have an effect.
func openRegular(root *os.File, path string, flags int) (*os.File, error) {
	seen, err := openBeneath(root, path, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer seen.Close()
	info, err := seen.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a file", ErrStream, path)
	}
	return os.OpenFile(filepath.Join("/proc/self/fd", strconv.Itoa(int(seen.Fd()))), flags, 0)
}

// clone shares a range with a file of the base, or of the new subvolume.
func (a *applying) clone(ctx context.Context, c *command) error {
	sourceID, from, length, at := c.uuid(attrCloneUUID), c.number(attrCloneOffset), c.number(attrCloneLength),
		c.number(attrOffset)
	f, err := a.file(c.text(attrPath))
	if err = errors.Join(c.err, err); err != nil {
		return err
	}
	var root *os.File
	switch {
	case sourceID == a.self:
		root = a.dir
	case a.base != nil && sourceID == a.parent:
		root = a.base
	default:
		return fmt.Errorf("%w: it shares data with subvolume %s, which is not its base", ErrStream, sourceID)
	}
	src, err := openRegular(root, c.text(attrClonePath), unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := checkClone(f, src, from, length, at); err != nil {
		return err
	}
	err = unix.IoctlFileCloneRange(int(f.Fd()), &unix.FileCloneRange{
		Src_fd: int64(src.Fd()), Src_offset: from, Src_length: length, Dest_offset: at,
	})
	if errors.Is(err, unix.EINVAL) { // one of them is NOCOW
		_, err = io.Copy(io.NewOffsetWriter(f, int64(at)),
			contextReader{ctx, io.NewSectionReader(src, int64(from), int64(length))})
	}
	return err
}

// checkClone fails if the shared range does not exist completely, or if source and target overlap in one file.
func checkClone(f, src *os.File, from, length, at uint64) error {
	to, err := f.Stat()
	if err != nil {
		return err
	}
	srcInfo, err := src.Stat()
	if err != nil {
		return err
	}
	size := uint64(srcInfo.Size())
	if from > size || length > size-from {
		return fmt.Errorf("%w: %d bytes from %d on are shared with a file of %d bytes", ErrStream, length, from, size)
	}
	if os.SameFile(to, srcInfo) && max(from, at)-min(from, at) < length {
		return fmt.Errorf("%w: a file shares %d bytes from %d on with itself at %d", ErrStream, length, from, at)
	}
	return nil
}

// contextReader reads from a reader, and fails once its context has ended.
type contextReader struct {
	ctx context.Context //nolint:containedctx // for one call
	io.Reader
}

func (u contextReader) Read(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.Reader.Read(b)
}

// execute executes a command. If that fails because a file is immutable or append-only (chattr +i, +a), execute clears
// these flags and tries again. Streams do not contain the flags, so a copy does not keep them anyway.
func (a *applying) execute(ctx context.Context, c *command) error {
	err := a.act(ctx, c)
	if errors.Is(err, unix.EPERM) {
		a.unprotect(c)
		err = a.act(ctx, c)
	}
	return err
}

// unprotect clears the flags immutable and append-only of every file that a command names, and of the directories that
// contain these files.
func (a *applying) unprotect(c *command) {
	paths := []string{string(c.attr[attrPath]), string(c.attr[attrPathTo])}
	if c.kind == cmdLink {
		paths = append(paths, string(c.attr[attrPathLink]))
	}
	for _, path := range paths {
		for _, name := range []string{filepath.Clean(path), filepath.Dir(path)} {
			f, err := openBeneath(a.dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
			if errors.Is(err, unix.ENOTDIR) {
				f, err = openRegular(a.dir, name, os.O_RDONLY)
			}
			if err == nil { // if the file does not exist, the command itself reports that
				_ = fsctl.Unprotect(f)
				_ = f.Close()
			}
		}
	}
}
