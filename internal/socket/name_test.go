package socket

import (
	"errors"
	"net"
	"os"
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
