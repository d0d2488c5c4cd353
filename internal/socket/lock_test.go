package socket

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

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
