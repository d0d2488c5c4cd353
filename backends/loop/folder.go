package loop

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// folder is an open directory of a pool. Names below it are relative paths; a symbolic
// link is followed in no part of one (openat2(2)), and each call is one system call for
// a name without a slash. os.Root does the same at three times the price, which a
// create would feel.
type folder struct {
	*os.File
}

const below = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// openFolder opens a directory whose last element is no symbolic link.
func openFolder(path string) (folder, error) {
	for { // os.OpenFile would ask epoll first whether it can wait for a directory
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			return folder{os.NewFile(uintptr(fd), path)}, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return folder{}, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

func (d folder) fd() int { return int(d.Fd()) }

func (d folder) path(name string) string { return filepath.Join(d.Name(), name) }

func (d folder) fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: d.path(name), Err: err}
}

// openFile opens or, with os.O_CREATE, makes a file.
func (d folder) openFile(name string, flags int) (*os.File, error) {
	how := &unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: below}
	if flags&os.O_CREATE != 0 {
		how.Mode = 0o600
	}
	for {
		fd, err := unix.Openat2(d.fd(), name, how)
		if err == nil {
			return os.NewFile(uintptr(fd), d.path(name)), nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, d.fail("open", name, err)
		}
	}
}

func (d folder) open(name string) (*os.File, error) { return d.openFile(name, os.O_RDONLY) }

func (d folder) sub(name string) (folder, error) {
	f, err := d.openFile(name, os.O_RDONLY|unix.O_DIRECTORY)
	return folder{f}, err
}

// in calls f with the folder that name lies in and its last element.
func (d folder) in(name string, f func(d folder, base string) error) error {
	parent, base := filepath.Split(name)
	if parent == "" {
		return f(d, base)
	}
	sub, err := d.sub(filepath.Clean(parent))
	if err != nil {
		return err
	}
	defer sub.Close()
	return f(sub, base)
}

func (d folder) mkdir(name string) error {
	return d.in(name, func(d folder, base string) error {
		return d.fail("mkdir", base, unix.Mkdirat(d.fd(), base, 0o700))
	})
}

// rename moves a name in place of another one.
func (d folder) rename(from, to string) error {
	return d.in(from, func(src folder, a string) error {
		return d.in(to, func(dst folder, b string) error {
			return src.fail("rename", a, unix.Renameat(src.fd(), a, dst.fd(), b))
		})
	})
}

// exchange gives each of two names what the other has.
func (d folder) exchange(a, b string) error {
	return d.fail("exchange", b, unix.Renameat2(d.fd(), a, d.fd(), b, unix.RENAME_EXCHANGE))
}

// remove removes a file.
func (d folder) remove(name string) error {
	return d.in(name, func(d folder, base string) error {
		return d.fail("remove", base, unix.Unlinkat(d.fd(), base, 0))
	})
}

// rmdir removes an empty directory.
func (d folder) rmdir(name string) error {
	return d.in(name, func(d folder, base string) error {
		return d.fail("rmdir", base, unix.Unlinkat(d.fd(), base, unix.AT_REMOVEDIR))
	})
}

// lstat looks at what has a name. os.ErrNotExist when nothing has.
func (d folder) lstat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := d.in(name, func(d folder, base string) error {
		return d.fail("lstat", base, unix.Fstatat(d.fd(), base, &st, unix.AT_SYMLINK_NOFOLLOW))
	})
	return st, err
}

func isRegular(st unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFREG }

// entries lists a directory.
func (d folder) entries(name string) ([]os.DirEntry, error) {
	sub, err := d.sub(name)
	if err != nil {
		return nil, err
	}
	defer sub.Close()
	return sub.ReadDir(-1)
}

// read returns the bytes of a file, at most max of them.
func (d folder) read(name string, max int64) ([]byte, error) {
	f, err := d.openFile(name, os.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, max))
}
