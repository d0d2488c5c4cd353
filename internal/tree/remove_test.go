package tree

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
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
