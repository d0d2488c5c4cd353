package tree

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func TestRemove(t *testing.T) {
	outer := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outer, "canary"), []byte("alive"), 0o600))
	dir := mkdir(t, outer, "dst")
	victim := mkdir(t, dir.Name(), "victim")
	treetest.Plant(t, victim.Name())
	require.NoError(t, os.Symlink("../..", filepath.Join(victim.Name(), "out")))
	for range 2 {
		require.NoError(t, Remove(t.Context(), dir, "victim"))
	}
	if got := listing(t, dir.Name()); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
	wantUntouched(t, outer)
}

// Files that a privileged container made immutable or append-only are removed. The target of a symbolic link among them
// keeps its flags.
func TestRemoveProtected(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fs, func(t *testing.T) {
			dir := mkdir(t, scratch.Mount(t, fs, 1<<30), "dir")
			outer := filepath.Join(filepath.Dir(dir.Name()), "outer")
			require.NoError(t, os.WriteFile(outer, nil, 0o600))
			require.NoError(t, os.MkdirAll(filepath.Join(dir.Name(), "victim/fixed/sub"), 0o755))
			require.NoError(t, os.MkdirAll(filepath.Join(dir.Name(), "victim/log"), 0o755))
			for _, name := range []string{"victim/fixed/file", "victim/fixed/sub/file", "victim/log/file"} {
				require.NoError(t, os.WriteFile(filepath.Join(dir.Name(), name), nil, 0o400))
			}
			require.NoError(t, os.Symlink(outer, filepath.Join(dir.Name(), "victim/fixed/link")))
			chattr := exec.Command("chattr", "+i", outer, "victim/fixed/file", "victim/fixed/sub/file",
				"victim/fixed/sub", "victim/fixed")
			chattr.Dir = dir.Name()
			require.NoError(t, chattr.Run())
			chattr = exec.Command("chattr", "+a", "victim/log/file", "victim/log", "victim")
			chattr.Dir = dir.Name()
			require.NoError(t, chattr.Run())
			t.Cleanup(func() { _ = exec.Command("chattr", "-R", "-i", "-a", filepath.Dir(dir.Name())).Run() })
			require.NoError(t, Remove(t.Context(), dir, "victim"))
			if got := listing(t, dir.Name()); len(got) > 0 {
				t.Errorf("left: %q", got)
			}
			assert.ErrorIsf(t, os.Remove(outer), unix.EPERM, "the flag of what a link leads to was cleared")
		})
	}
}

func TestRemoveDeeperThanDescriptorsGo(t *testing.T) {
	dir := mkdir(t, t.TempDir(), "dir")
	require.NoError(t, os.Mkdir(filepath.Join(dir.Name(), "victim.1001"), 0o755)) // the name that Remove would use exists already
	require.NoError(t, os.Mkdir(filepath.Join(dir.Name(), "victim"), 0o755))
	at, err := unix.Openat(int(dir.Fd()), "victim", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	for range 3000 {
		require.NoError(t, unix.Mkdirat(at, "d", 0o755))
		next, err := unix.Openat(at, "d", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(at))
		at = next
	}
	require.NoError(t, unix.Close(at))
	var old unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1024, Max: old.Max}))
	defer func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) }()
	require.NoError(t, Remove(t.Context(), dir, "victim"))
	if got := listing(t, dir.Name()); !cmp.Equal(got, []string{"victim.1001"}) {
		t.Errorf("left: %q", got)
	}
}

func TestRemoveStopsAtMounts(t *testing.T) {
	dir := mkdir(t, t.TempDir(), "dir")
	point := filepath.Join(dir.Name(), "victim/point")
	require.NoError(t, os.MkdirAll(point, 0o755))
	require.NoError(t, unix.Mount("none", point, "tmpfs", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(point, unix.MNT_DETACH)) })
	require.NoError(t, os.WriteFile(filepath.Join(point, "file"), []byte("precious"), 0o600))
	if err := Remove(t.Context(), dir, "victim"); !errors.Is(err, unix.EBUSY) {
		t.Errorf("got %v, want EBUSY", err)
	}
	if got := listing(t, point); len(got) != 1 {
		t.Errorf("the mount holds %q", got)
	}
}

func TestRemoveStopsWhenCancelled(t *testing.T) {
	dir := mkdir(t, t.TempDir(), "dir")
	require.NoError(t, os.MkdirAll(filepath.Join(dir.Name(), "victim/a"), 0o755))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Remove(ctx, dir, "victim"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

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
