package inuse

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// examined returns the findings of this process, and a TreeUse of a tree.
func examined(t *testing.T, tree mount.Filesystem) (Findings, *TreeUse) {
	t.Helper()
	table, err := mount.Table()
	require.NoError(t, err)
	s, err := NewScan(table)
	require.NoError(t, err)
	s.AddTree(tree, nil)
	f, err := (&Examination{Scan: s, PID: os.Getpid()}).run()
	require.NoError(t, err)
	return f, NewTreeUse(table, tree, nil)
}

// filesystemOn returns the tree root of the filesystem that is mounted on a path.
func filesystemOn(t *testing.T, path, root string) mount.Filesystem {
	t.Helper()
	table, err := mount.Table()
	require.NoError(t, err)
	e := table.At(path)
	return mount.Filesystem{Major: e.Major, Minor: e.Minor, Root: root, Identity: mount.Identity{Type: e.FSType}}
}

// The kernel does not show a path that is longer than a page. Such a file may be in any tree of the
// filesystem.
func TestLongPathCounts(t *testing.T) {
	disk := scratch.Mount(t, "ext4", scratch.Ext4)
	at, err := unix.Open(disk, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	name := strings.Repeat("x", 250)
	for range os.Getpagesize()/len(name) + 1 {
		require.NoError(t, unix.Mkdirat(at, name, 0o700))
		next, err := unix.Openat(at, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(at))
		at = next
	}
	defer unix.Close(at)
	if f, h := examined(t, filesystemOn(t, disk, "/dataset")); !h.CanWrite(f) {
		t.Error("it holds nothing")
	}
}

// An XFS that has shut down describes no file. On a detached mount, only statfs(2) says which filesystem it is.
func TestDetachedFromADeadDisk(t *testing.T) {
	alive, dead := scratch.Mount(t, "xfs", scratch.XFS), scratch.Mount(t, "xfs", scratch.XFS)
	ofAlive, ofDead := filesystemOn(t, alive, "/"), filesystemOn(t, dead, "/")
	dir, err := os.Open(dead)
	require.NoError(t, err)
	defer dir.Close()
	scratch.ShutDown(t, dead)
	require.NoError(t, unix.Unmount(dead, unix.MNT_DETACH))
	if f, h := examined(t, ofDead); !h.CanWrite(f) {
		t.Error("a file on the dead disk does not count")
	}
	if f, h := examined(t, ofAlive); h.CanWrite(f) {
		t.Error("a file on the dead disk counts for another one")
	}
}
