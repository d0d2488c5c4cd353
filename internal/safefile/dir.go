package safefile

import (
	"errors"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Dir is an open directory. Names below it are relative paths. No symbolic link in such a path is followed, and no path
// leaves the directory (openat2(2)). Each call is one system call for a name without a slash. os.Root does the same at
// three times the price, which would slow down a create noticeably.
type Dir struct {
	*os.File
}

const below = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// OpenDir opens a directory. It fails if the last element of path is a symbolic link.
func OpenDir(path string) (Dir, error) {
	for { // os.OpenFile would first try to add the directory to epoll, which always fails
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			return Dir{os.NewFile(uintptr(fd), path)}, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return Dir{}, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// FD returns the file descriptor.
func (d Dir) FD() int { return int(d.Fd()) }

// Path returns the full path of a name.
func (d Dir) Path(name string) string { return filepath.Join(d.Name(), name) }

// fail returns err as an os.PathError for a name in the directory, or nil if err is nil.
func (d Dir) fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: d.Path(name), Err: err}
}

// OpenFile opens a file. With os.O_CREATE it creates the file.
func (d Dir) OpenFile(name string, flags int) (*os.File, error) {
	how := &unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: below}
	if flags&os.O_CREATE != 0 {
		how.Mode = 0o600
	}
	for {
		fd, err := unix.Openat2(d.FD(), name, how)
		if err == nil {
			return os.NewFile(uintptr(fd), d.Path(name)), nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, d.fail("open", name, err)
		}
	}
}

// Open opens a file for reading.
func (d Dir) Open(name string) (*os.File, error) { return d.OpenFile(name, os.O_RDONLY) }

// Sub opens a directory.
func (d Dir) Sub(name string) (Dir, error) {
	f, err := d.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY)
	return Dir{f}, err
}

// in opens the directory that contains name, and calls f with that directory and the last element of name.
func (d Dir) in(name string, f func(d Dir, base string) error) error {
	parent, base := filepath.Split(name)
	if parent == "" {
		return f(d, base)
	}
	sub, err := d.Sub(filepath.Clean(parent))
	if err != nil {
		return err
	}
	defer sub.Close()
	return f(sub, base)
}

// Mkdir makes a directory.
func (d Dir) Mkdir(name string) error {
	return d.in(name, func(d Dir, base string) error {
		return d.fail("mkdir", base, unix.Mkdirat(d.FD(), base, 0o700))
	})
}

// Rename renames a file or directory. A file with the new name is replaced.
func (d Dir) Rename(from, to string) error {
	return d.in(from, func(src Dir, a string) error {
		return d.in(to, func(dst Dir, b string) error {
			return src.fail("rename", a, unix.Renameat(src.FD(), a, dst.FD(), b))
		})
	})
}

// Exchange swaps two names. Neither may contain a slash.
func (d Dir) Exchange(a, b string) error {
	return d.fail("exchange", b, unix.Renameat2(d.FD(), a, d.FD(), b, unix.RENAME_EXCHANGE))
}

// Remove removes a file.
func (d Dir) Remove(name string) error {
	return d.in(name, func(d Dir, base string) error {
		return d.fail("remove", base, unix.Unlinkat(d.FD(), base, 0))
	})
}

// Rmdir removes an empty directory.
func (d Dir) Rmdir(name string) error {
	return d.in(name, func(d Dir, base string) error {
		return d.fail("rmdir", base, unix.Unlinkat(d.FD(), base, unix.AT_REMOVEDIR))
	})
}

// Lstat returns the status of a name. It fails with os.ErrNotExist if nothing has the name.
func (d Dir) Lstat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := d.in(name, func(d Dir, base string) error {
		return d.fail("lstat", base, unix.Fstatat(d.FD(), base, &st, unix.AT_SYMLINK_NOFOLLOW))
	})
	return st, err
}

// IsRegular reports whether a status is that of a regular file.
func IsRegular(st unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFREG }

// IsDir reports whether a status is that of a directory.
func IsDir(st unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

// Entries lists a directory.
func (d Dir) Entries(name string) ([]os.DirEntry, error) {
	sub, err := d.Sub(name)
	if err != nil {
		return nil, err
	}
	defer sub.Close()
	return sub.ReadDir(-1)
}

// Names returns the names in a directory, sorted.
func (d Dir) Names(name string) ([]string, error) {
	sub, err := d.Sub(name)
	if err != nil {
		return nil, err
	}
	defer sub.Close()
	names, err := sub.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// Read is like the function Read, for a name in the directory.
func (d Dir) Read(name string) ([]byte, error) {
	f, err := d.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return readAll(f)
}

// Link gives a file a second name. Neither name may contain a slash.
func (d Dir) Link(name, to string) error {
	return d.fail("link", to, unix.Linkat(d.FD(), name, d.FD(), to, 0))
}

// AbsentIsFine returns nil if err is os.ErrNotExist, and otherwise err.
func AbsentIsFine(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
