package socket

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

func TestHold(t *testing.T) {
	name := "drover-test-" + uuid.NewString()
	first, err := AcquireName(t.Context(), name)
	require.NoError(t, err)
	_, err = AcquireName(t.Context(), name)
	if !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getpid())) {
		t.Errorf("a second one got %v, want that this process has it", err)
	}
	other, err := AcquireName(t.Context(), name+"-other")
	require.NoError(t, err)
	require.NoError(t, errors.Join(first.Close(), other.Close()))
	again, err := AcquireName(t.Context(), name)
	require.NoErrorf(t, err, "after it was let go")
	require.NoError(t, again.Close())
}

// A child that was forked while this process had a name, and has not called exec yet, keeps the name for a moment.
func TestHoldWhatAForkStillHas(t *testing.T) {
	name := "drover-test-" + uuid.NewString()
	first, err := AcquireName(t.Context(), name)
	require.NoError(t, err)
	forked, err := first.(*net.UnixListener).File()
	require.NoError(t, err)
	require.NoError(t, first.Close())
	time.AfterFunc(30*time.Millisecond, func() { _ = forked.Close() })
	again, err := AcquireName(t.Context(), name)
	require.NoError(t, err)
	require.NoError(t, again.Close())
}

const nobody = 65534

// as runs f with another user ID, so that its sockets belong to that user. It needs root.
func as(t *testing.T, uid int, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), uintptr(uid),
			^uintptr(0)); errno != 0 {
			done <- errno
			return
		}
		done <- f()
	}()
	require.NoError(t, <-done)
}

// bound returns a stream socket that is bound to an abstract name.
func bound(t *testing.T, name string) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fd, err
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd, unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + name})
}

func listening(t *testing.T, name string, backlog int) error {
	fd, err := bound(t, name)
	if err != nil {
		return err
	}
	return unix.Listen(fd, backlog)
}

// If another user has the name, the error says so, whatever that user does with the socket. If a process of root has
// the name, it is reported as in use.
func TestHoldOfAStranger(t *testing.T) {
	do := map[string]func(t *testing.T, name string) error{
		"listens": func(t *testing.T, name string) error { return listening(t, name, 16) },
		"bound":   func(t *testing.T, name string) error { _, err := bound(t, name); return err },
		"full": func(t *testing.T, name string) error {
			if err := listening(t, name, 0); err != nil {
				return err
			}
			for range 16 {
				fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				t.Cleanup(func() { _ = unix.Close(fd) })
				if err := unix.Connect(fd, &unix.SockaddrUnix{Name: "@" + name}); errors.Is(err, unix.EAGAIN) {
					return nil
				} else if err != nil {
					return err
				}
			}
			return errors.New("it does not fill up")
		},
	}
	for how, f := range do {
		for uid, want := range map[int]error{nobody: dataset.ErrForbidden, 0: dataset.ErrInUse} {
			t.Run(how+" "+strconv.Itoa(uid), func(t *testing.T) {
				name := "drover-test-" + uuid.NewString()
				as(t, uid, func() error { return f(t, name) })
				if _, err := AcquireName(t.Context(), name); !errors.Is(err, want) {
					t.Errorf("%v, want %v", err, want)
				} else if uid != 0 && !strings.Contains(err.Error(), "uid "+strconv.Itoa(uid)) {
					t.Errorf("%v does not say whose it is", err)
				}
			})
		}
	}
}

// ended returns the results of f, and fails the test if f does not return. A cleanup releases what blocks f.
func ended[T any](t *testing.T, what string, f func() (T, error)) (got T, err error) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); got, err = f() }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s does not end", what)
	}
	return got, err
}

// flocked locks a folder with flock(2) until the end of the test.
func flocked(t *testing.T, dir string, how int) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	t.Cleanup(func() { d.Close() })
	return unix.Flock(int(d.Fd()), how)
}

// An unprivileged user who locks the folder of a socket blocks neither its start nor its end.
func TestI1StrangerLocksTheFolder(t *testing.T) {
	for name, how := range map[string]int{"exclusive": unix.LOCK_EX, "shared": unix.LOCK_SH} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // as /run is
				t.Fatal(err)
			}
			path := filepath.Join(dir, "d.sock")
			as(t, nobody, func() error { return flocked(t, dir, how) })
			open := func() (*Listener, error) { return Listen(context.Background(), path, "") }
			l, err := ended(t, "Listen", open)
			require.NoError(t, err)
			answers(t, path)
			if _, err := ended(t, "a second Listen", open); !errors.Is(err, dataset.ErrInUse) {
				t.Error(err)
			}
			if _, err := ended(t, "Close", func() (any, error) { return nil, l.Close() }); err != nil {
				t.Error(err)
			}
		})
	}
}

// The lock file of a socket is removed. A lock file that belongs to another user is refused.
func TestLockOfASocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "d.sock")
	listen(t, path, "")
	if _, err := os.Lstat(path + ".lock"); !errors.Is(err, os.ErrNotExist) {
		t.Error("the lock is still there:", err)
	}
	other := filepath.Join(dir, "e.sock")
	require.NoError(t, os.WriteFile(other+".lock", nil, 0o600))
	require.NoError(t, os.Chown(other+".lock", nobody, nobody))
	if _, err := Listen(t.Context(), other, ""); !errors.Is(err, dataset.ErrForbidden) {
		t.Error(err)
	}
}
