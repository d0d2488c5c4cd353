package safefile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// lockPoll is how often Lock tries again while another process holds the lock.
const lockPoll = 10 * time.Millisecond

// Lock takes a lock that one process of this host can hold at a time: flock(2) on a file at
// path. The file exists only while the lock is held. It has mode 0600: a process that cannot
// open it cannot hold the lock, so other users cannot block the caller. Lock waits for at most
// wait, and no longer than ctx.
//
// Errors: ErrInUse, with the processes that hold the lock, when the wait is over; the cause of
// ctx when that ends first; ErrForbidden when another user owns the file or can open it;
// ErrInvalid when path is a FIFO or a device; the error of open(2) when path cannot be opened,
// such as ELOOP for a symbolic link and EISDIR for a folder.
//
// The caller calls unlock once. unlock removes the file while the lock is still held. A process that waited for the
// lock then has a lock on a removed file. It notices that, and starts over.
func Lock(ctx context.Context, path string, wait time.Duration) (unlock func() error, err error) {
	for waited := time.Duration(0); ; waited += lockPoll {
		f, err := openLock(path)
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		locked, err := tryLock(f, path)
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, errors.Join(err, f.Close()))
		}
		if locked {
			return func() error { return errors.Join(release(f, path), f.Close()) }, nil
		}
		select {
		case <-ctx.Done():
			err = fmt.Errorf("lock %s, which %s holds: %w", path, Holders(f), context.Cause(ctx))
		case <-clock.System{}.After(lockPoll):
		}
		if err == nil && waited >= wait {
			err = dataset.Errorf(dataset.ErrInUse, "lock %s: %s holds it (end it, and try again)", path, Holders(f))
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
}

// openLock opens the file of a lock, and creates it if it does not exist.
func openLock(path string) (*os.File, error) {
	// O_NONBLOCK, so that a FIFO at path cannot block the caller.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, cause(err)
	}
	if err := checkPrivate(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// tryLock locks the file. It returns false if another process holds the lock, or if path no longer
// names this file.
func tryLock(f *os.File, path string) (locked bool, err error) {
	err = unix.EINTR
	for errors.Is(err, unix.EINTR) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return isNamed(f, path)
}

// release removes the lock file while the lock is held, unless path names another file by now.
func release(f *os.File, path string) error {
	named, err := isNamed(f, path)
	if err != nil || !named {
		return err
	}
	return os.Remove(path)
}

// checkPrivate fails unless f is a regular file that no other user can open.
func checkPrivate(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return dataset.Errorf(dataset.ErrInvalid, "it is not a regular file (remove it)")
	case int(st.Uid) != os.Geteuid() && st.Uid != 0:
		return dataset.Errorf(dataset.ErrForbidden,
			"it belongs to uid %d (remove it, and let nobody but root write to its folder)", st.Uid)
	case st.Mode&0o077 != 0:
		return dataset.Errorf(dataset.ErrForbidden, "other users can open it: mode %04o (remove it)", st.Mode&0o7777)
	}
	return nil
}

// isNamed reports whether path still names the open file f.
func isNamed(f *os.File, path string) (bool, error) {
	openInfo, err := f.Stat()
	if err != nil {
		return false, err
	}
	pathInfo, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, cause(err)
	}
	return os.SameFile(openInfo, pathInfo), nil
}

// cause returns the cause inside a path error: the caller's message contains the path already.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
