package tree

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// TestOtherNamespace copies a folder of another mount namespace, of whose mount no private copy can be made. The
// content of a mount below the folder must not be copied as if it belonged to the folder.
func TestOtherNamespace(t *testing.T) {
	src := mkdir(t, t.TempDir(), "src").Name()
	covered := filepath.Join(src, "covered")
	require.NoError(t, os.Mkdir(covered, 0o755))
	opened, done := make(chan *os.File), make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		dir, err := func() (*os.File, error) {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return nil, err
			}
			if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return nil, err
			}
			if err := unix.Mount("none", covered, "tmpfs", 0, ""); err != nil {
				return nil, err
			}
			if err := os.WriteFile(filepath.Join(covered, "above"), []byte("another's"), 0o600); err != nil {
				return nil, err
			}
			return os.Open(src)
		}()
		assert.NoError(t, err)
		opened <- dir
		<-done
	}()
	dir := <-opened
	if dir == nil {
		t.FailNow()
	}
	defer dir.Close()
	if names := listing(t, filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), "covered")); len(names) != 1 {
		t.Fatalf("what is mounted there holds %q", names)
	}
	dst := mkdir(t, t.TempDir(), "dst")
	if err := Copy(t.Context(), dir, dst, nil); !errors.Is(err, unix.EXDEV) {
		t.Errorf("the copy ended with %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dst.Name(), "covered", "above")); !os.IsNotExist(err) {
		t.Errorf("what is mounted below was copied: %v", err)
	}
}

// TestOpenAt: openAt never leaves the directory: not through "..", not through a symbolic link in the middle or at the
// end of a name, and not through a mount.
func TestOpenAt(t *testing.T) {
	outer := t.TempDir()
	dir := mkdir(t, outer, "dir")
	require.NoError(t, os.MkdirAll(filepath.Join(dir.Name(), "sub"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir.Name(), "sub", "file"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(outer, "file"), nil, 0o600))
	require.NoError(t, os.Symlink("sub", filepath.Join(dir.Name(), "link")))
	require.NoError(t, os.Symlink("sub/file", filepath.Join(dir.Name(), "last")))
	mounted := mkdir(t, dir.Name(), "mounted").Name()
	require.NoError(t, unix.Mount("none", mounted, "tmpfs", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(mounted, unix.MNT_DETACH)) })
	for name, want := range map[string]error{
		"mounted": unix.EXDEV, "sub/file": nil, "..": unix.EXDEV, "../file": unix.EXDEV, outer + "/file": unix.EXDEV,
		"link/file": unix.ELOOP, "last": unix.ELOOP,
	} {
		fd, err := openAt(int(dir.Fd()), name, unix.O_RDONLY)
		if err == nil {
			_ = unix.Close(fd)
		}
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

// A new file never replaces an existing one, and never the target of a symbolic link.
func TestCreateFileTakesNothingOver(t *testing.T) {
	dir := mkdir(t, t.TempDir(), "dir")
	require.NoError(t, os.WriteFile(filepath.Join(dir.Name(), "there"), []byte("mine"), 0o600))
	require.NoError(t, os.Symlink("there", filepath.Join(dir.Name(), "link")))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir.Name(), "dangling")))
	for _, name := range []string{"there", "link", "dangling"} {
		f, err := createFile(dir, name)
		if err == nil {
			require.NoError(t, f.Close())
		}
		assert.ErrorIsf(t, err, unix.EEXIST, "%s", name)
	}
}
