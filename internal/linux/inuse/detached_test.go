package inuse

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }

// cloned opens a path below a clone of a directory's mount, which is attached nowhere (open_tree(2)).
func cloned(t *testing.T, dir, path string, flags int) {
	t.Helper()
	clone, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	require.NoError(t, err)
	fd, err := unix.Openat(clone, path, flags|unix.O_CLOEXEC, 0)
	assert.NoError(t, unix.Close(clone))
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
}

// A process with a file open through a detached mount holds the dataset only if the file belongs to the
// dataset, and not if it is elsewhere on the same filesystem: Drover itself copies trees through such
// mounts.
func TestHoldersThroughDetachedMounts(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		top := scratch.Mount(t, fstype, 384<<20)
		for name, c := range map[string]struct {
			do    func(t *testing.T, disk string)
			holds bool
		}{
			"a directory beside it": {
				func(t *testing.T, disk string) { cloned(t, disk+"/other", ".", unix.O_DIRECTORY) }, false,
			},
			"a file beside it": {
				func(t *testing.T, disk string) { cloned(t, disk+"/other", "file", unix.O_RDWR) }, false,
			},
			"a deleted file beside it": {func(t *testing.T, disk string) {
				cloned(t, disk+"/other", "file", unix.O_RDWR)
				require.NoError(t, os.Remove(disk+"/other/file"))
			}, false},
			"its directory": {
				func(t *testing.T, disk string) { cloned(t, disk+"/dataset", ".", unix.O_DIRECTORY) }, true,
			},
			"its file": {
				func(t *testing.T, disk string) { cloned(t, disk+"/dataset/below", "file", unix.O_RDWR) }, true,
			},
			// as through any mount
			"a folder above": {func(t *testing.T, disk string) { cloned(t, disk, ".", unix.O_DIRECTORY) }, false},
			"its file, to read": {func(t *testing.T, disk string) {
				cloned(t, disk+"/dataset/below", "file", unix.O_RDONLY)
			}, false},
			"its deleted file": {func(t *testing.T, disk string) {
				cloned(t, disk+"/dataset/below", "file", unix.O_RDWR)
				require.NoError(t, os.Remove(disk+"/dataset/below/file"))
			}, true},
			"its file, which has a name beside it": {func(t *testing.T, disk string) {
				require.NoError(t, os.Link(disk+"/dataset/below/file", disk+"/other/link"))
				cloned(t, disk+"/other", "link", unix.O_RDWR)
			}, true},
		} {
			t.Run(fstype+", "+name, func(t *testing.T) {
				disk := filepath.Join(top, uuid.NewString())
				for _, dir := range []string{"dataset/below", "other"} {
					require.NoError(t, os.MkdirAll(filepath.Join(disk, dir), 0o700))
					require.NoError(t, os.WriteFile(filepath.Join(disk, dir, "file"), []byte("it"), 0o600))
				}
				path := filepath.Join(t.TempDir(), "mnt")
				require.NoError(t, os.Mkdir(path, 0o700))
				require.NoError(t, unix.Mount(filepath.Join(disk, "dataset"), path, "", unix.MS_BIND, ""))
				t.Cleanup(func() { require.NoError(t, unix.Unmount(path, 0)) })
				c.do(t, disk)
				own, err := mount.Table()
				require.NoError(t, err)
				if got := holdsHere(t, own, path); got != c.holds {
					t.Errorf("By = %t, want %t", got, c.holds)
				}
			})
		}
	}
}

// If the host has mounted only parts of the filesystem, as with the subvolumes of a btrfs, a file that none
// of them shows may be anywhere.
func TestDetachedBesidePartialMounts(t *testing.T) {
	disk, dir := scratch.Mount(t, "ext4", scratch.Ext4), t.TempDir()
	for _, part := range []string{"dataset", "other", "third"} {
		require.NoError(t, os.Mkdir(filepath.Join(disk, part), 0o700))
		require.NoError(t, os.Mkdir(filepath.Join(dir, part), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(disk, part, "file"), []byte("it"), 0o600))
		require.NoError(t, unix.Mount(filepath.Join(disk, part), filepath.Join(dir, part), "", unix.MS_BIND, ""))
		t.Cleanup(func() { require.NoError(t, unix.Unmount(filepath.Join(dir, part), 0)) })
	}
	for _, c := range []struct {
		opened string
		shown  []string // what the host has mounted
		holds  bool
	}{
		{"dataset", []string{"other", "dataset"}, true},
		{"dataset", []string{"other"}, true},
		{"other", []string{"other", "dataset"}, false},
		{"third", []string{"other", "dataset"}, true},
	} {
		t.Run(c.opened+" beside "+strings.Join(c.shown, ", "), func(t *testing.T) {
			own, err := mount.Table()
			require.NoError(t, err)
			e := own.At(filepath.Join(dir, "dataset"))
			own = slices.DeleteFunc(own, func(o *mount.Entry) bool {
				return o.Major == e.Major && o.Minor == e.Minor &&
					!slices.Contains(c.shown, strings.TrimPrefix(o.Root, "/"))
			})
			cloned(t, filepath.Join(disk, c.opened), "file", unix.O_RDWR)
			s, err := NewScan(own)
			require.NoError(t, err)
			fsys := mount.Filesystem{Major: e.Major, Minor: e.Minor, Root: e.Root}
			if got := holdsTree(t, s, fsys, e); got != c.holds {
				t.Errorf("By = %t, want %t", got, c.holds)
			}
		})
	}
}

// holdsHere reports whether this process holds what is mounted on a path.
func holdsHere(t *testing.T, own mount.Mounts, path string) bool {
	t.Helper()
	e := own.At(path)
	s, err := NewScan(own)
	require.NoError(t, err)
	return holdsTree(t, s, mount.Filesystem{Major: e.Major, Minor: e.Minor, Root: e.Root}, e)
}

// holdsTree reports whether this process holds a tree, of which e is a mount.
func holdsTree(t *testing.T, s *Scan, fsys mount.Filesystem, e *mount.Entry) bool {
	t.Helper()
	s.AddTree(fsys, e)
	var r Examiner
	f, err := r.Examine(t.Context(), clock.System{}, &Examination{Scan: s, PID: os.Getpid()}, func() {})
	require.NoError(t, err)
	return NewTreeUse(s.own, fsys, []string{e.Mountpoint}).CanWrite(f)
}
