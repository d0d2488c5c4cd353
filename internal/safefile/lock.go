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

// Lock takes an exclusive lock between the processes of this host. The lock is flock(2) on a
// file at path that exists only while the lock is held. The file has mode 0600: a process
// that cannot open it cannot hold it, so other users cannot block the caller. Lock waits for
// at most wait, and no longer than ctx.
//
// Lock fails with ErrInUse, and names the processes that hold the lock, when the wait is over.
// It fails with ErrForbidden when another user owns the file or can open it.
//
// The file is removed while it is still locked. A process that waited for it then holds a
// lock on a file without a name, notices, and starts over.
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
		return nil, reason(err)
	}
	if err := private(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// tryLock locks the file if no other process holds it, and it still has its name.
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

// release removes the file of a lock that is held, unless it was exchanged for another one.
func release(f *os.File, path string) error {
	named, err := isNamed(f, path)
	if err != nil || !named {
		return err
	}
	return os.Remove(path)
}

// private fails unless f is a regular file that no other user can open.
func private(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return dataset.Errorf(dataset.ErrInvalid, "it is not a regular file (remove it)")
	case int(st.Uid) != os.Geteuid() && st.Uid != 0:
		return dataset.Errorf(dataset.ErrForbidden, "it belongs to uid %d (remove it, and let nobody but root write to its folder)", st.Uid)
	case st.Mode&0o077 != 0:
		return dataset.Errorf(dataset.ErrForbidden, "other users can open it: mode %04o (remove it)", st.Mode&0o7777)
	}
	return nil
}

// isNamed reports whether path still names the open file.
func isNamed(f *os.File, path string) (bool, error) {
	own, err := f.Stat()
	if err != nil {
		return false, err
	}
	now, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, reason(err)
	}
	return os.SameFile(own, now), nil
}

// reason returns the cause of a path error: the caller's message has the path already.
func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
