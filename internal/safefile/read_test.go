package safefile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/test/require"
)

// replacements returns functions that put something unusual at the path of a file, as another user can.
func replacements() map[string]func(path string) error {
	return map[string]func(path string) error{
		"fifo":    func(p string) error { return unix.Mkfifo(p, 0o644) },
		"endless": func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o644), os.Truncate(p, 1<<40)) },
		"device":  func(p string) error { return os.Symlink("/dev/zero", p) },
		"folder":  func(p string) error { return os.Mkdir(p, 0o755) },
		"socket":  func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o666, 0) },
	}
}

// ended returns what f returned, and fails the test if f does not return.
func ended[T any](t *testing.T, what string, f func() (T, error)) (got T, err error) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); got, err = f() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s does not end", what)
	}
	return got, err
}

// A file that blocks its readers, or that never ends, is refused.
func TestReadEnds(t *testing.T) {
	for name, make := range replacements() {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, make(filepath.Join(dir, "pool.json")))
			root, err := safefile.OpenDir(dir)
			require.NoError(t, err)
			defer root.Close()
			for what, read := range map[string]func() ([]byte, error){
				"Read":     func() ([]byte, error) { return safefile.Read(filepath.Join(dir, "pool.json")) },
				"Dir.Read": func() ([]byte, error) { return root.Read("pool.json") },
			} {
				if b, err := ended(t, what, read); err == nil || errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %d bytes, %v", what, len(b), err)
				}
			}
		})
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pool.json")
	root, err := safefile.OpenDir(dir)
	require.NoError(t, err)
	defer root.Close()
	if _, err := safefile.Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := root.Read("pool.json"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := errors.Join(os.WriteFile(path+".target", nil, 0o600),
		os.Symlink(path+".target", path+".link")); err != nil {
		t.Fatal(err)
	}
	if _, err := safefile.Read(path + ".link"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("followed a symbolic link: %v", err)
	}
	for _, want := range []string{"", "{}", strings.Repeat("x", 4<<20)} {
		require.NoError(t, os.WriteFile(path, []byte(want), 0o600))
		if got, err := safefile.Read(path); string(got) != want {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if got, err := root.Read("pool.json"); string(got) != want {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}

func TestOpenDisk(t *testing.T) {
	dir := t.TempDir()
	for name, make := range replacements() {
		path := filepath.Join(dir, name)
		require.NoError(t, make(path))
		f, err := ended(t, "OpenDisk", func() (*os.File, error) { return safefile.OpenDisk(path) })
		if opens := name == "endless"; opens != (err == nil) { // OpenDisk accepts it: a sparse image may be as large
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			f.Close()
		}
	}
	if _, err := safefile.OpenDisk(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// A file that another user may have written is refused.
func TestReadPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.json")
	if _, err := safefile.ReadPrivate(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	require.NoError(t, os.WriteFile(path, []byte("{}"), 0o600))
	if got, err := safefile.ReadPrivate(path); string(got) != "{}" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for name, change := range map[string]func() error{
		"mode":  func() error { return os.Chmod(path, 0o640) },
		"owner": func() error { return errors.Join(os.Chmod(path, 0o600), os.Chown(path, nobody, 0)) },
	} {
		require.NoError(t, change())
		if got, err := safefile.ReadPrivate(path); !errors.Is(err, dataset.ErrForbidden) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, make := range replacements() {
		require.NoError(t, errors.Join(os.RemoveAll(path), make(path)))
		if got, err := ended(t, name, func() ([]byte, error) { return safefile.ReadPrivate(path) }); err == nil {
			t.Errorf("%s: %d bytes", name, len(got))
		}
	}
}
