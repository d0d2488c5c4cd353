package inuse

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// Who can write to a tree through an overlay whose upper directory is in the tree.
func TestHoldersThroughAnOverlay(t *testing.T) {
	const path, images = "/root/mnt/uuid", "/var/lib/docker"
	tree := mount.Filesystem{Major: 8, Minor: 1, Root: "/pool/uuid"}
	// over is an overlay whose upper directory is below images.
	over := func(id, minor int, point string) *mount.Entry {
		e := entry(id, 0, minor, "/", point, "rw")
		e.FSType, e.VFSOptions = "overlay", "rw,lowerdir=/l,upperdir="+images+"/upper,workdir="+images+"/work"
		return e
	}
	within := func(around int, e *mount.Entry) *mount.Entry { e.Parent = around; return e }
	const ofHost, nested = 50, 60 // the minor numbers of two overlays
	merged := images + "/merged"
	disk := entry(1, 8, 1, "/", "/", "rw")
	own := mount.Mounts{disk, within(1, entry(2, 8, 1, "/pool/uuid", path, "rw")), within(1, over(3, ofHost, merged))}
	volume := func(point string) *mount.Entry { return within(10, entry(11, 8, 1, "/pool/uuid", point, "rw")) }
	engine := NewView(mount.Mounts{over(10, ofHost, "/"), volume(images), within(11, over(12, nested, merged))})
	elsewhere := NewView(mount.Mounts{over(10, ofHost, "/"), volume("/data"), within(10, over(12, nested, merged))})
	inner := over(20, nested, "/")
	readOnly := over(20, nested, "/")
	readOnly.Options = "ro"
	for name, c := range map[string]struct {
		others []*View // the tables of other processes
		p      mount.Mounts
		want   bool
	}{
		"a container of the engine on the volume":  {[]*View{engine}, mount.Mounts{inner}, true},
		"the same, read-only":                      {[]*View{engine}, mount.Mounts{readOnly}, false},
		"no table shows the mounter's paths":       {nil, mount.Mounts{inner}, false},
		"the upper directory is beside the volume": {[]*View{elsewhere}, mount.Mounts{inner}, false},
		"another container of the host":            {[]*View{engine}, mount.Mounts{over(20, ofHost+1, "/")}, false},
		"a service's copy of the host's mounts": {
			[]*View{engine}, mount.Mounts{disk, within(1, over(21, ofHost, merged))}, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := NewView(c.p)
			h := NewTreeUse(own, tree, []string{path})
			h.FindOverlays(&Scan{all: append(c.others, v)})
			if got := h.IsMountedIn(v); got != c.want {
				t.Errorf("it holds it: %t", got)
			}
		})
	}
}

// An engine has a private copy of the host's mounts, and the host does not show the overlays of its containers. One
// of these containers has the volume where the engine has its images.
func TestEngineIsNoHolderThroughAnOverlay(t *testing.T) {
	const images = "/var/lib/docker"
	over := func(id, parent int, point string) *mount.Entry {
		e := entry(id, 0, 50, "/", point, "rw")
		e.Parent, e.FSType, e.VFSOptions = parent, "overlay", "rw,upperdir="+images+"/upper"
		return e
	}
	volume := entry(11, 8, 1, "/pool/uuid", images, "rw")
	volume.Parent = 10
	engine := NewView(mount.Mounts{entry(1, 8, 1, "/", "/", "rw"), over(2, 1, images+"/merged")})
	container := NewView(mount.Mounts{over(10, 0, "/"), volume})
	h := NewTreeUse(mount.Mounts{entry(3, 8, 1, "/", "/", "rw")},
		mount.Filesystem{Major: 8, Minor: 1, Root: "/pool/uuid"}, nil)
	h.FindOverlays(&Scan{all: []*View{engine, container}})
	if h.IsMountedIn(engine) || !h.IsMountedIn(container) {
		t.Errorf("engine %t, container %t", h.IsMountedIn(engine), h.IsMountedIn(container))
	}
}

// Any user can make a mount table with thousands of overlays. The time to look at them grows with their
// number, and not with its square.
func TestManyOverlays(t *testing.T) {
	table := func(n int) mount.Mounts {
		tree := entry(1, 8, 1, "/pool/uuid", "/volume", "rw")
		list := mount.Mounts{entry(2, 8, 1, "/", "/", "rw"), tree}
		for i := range n {
			e := entry(3+i, 0, 100, "/", fmt.Sprintf("/mnt/%d", i), "rw")
			e.FSType, e.VFSOptions = "overlay", "rw,upperdir=/volume"+strings.Repeat("/a", 2*maxDepth)
			list = append(list, e)
		}
		return list
	}
	lookups := func(n int) float64 {
		list := table(n)
		return testing.AllocsPerRun(1, func() {
			if got := overlaysIn(list); len(got) != 1 || got[0].on != list[1] || got[0].root != "" {
				t.Errorf("%+v", got)
			}
		})
	}
	if few, many := lookups(100), lookups(10_000); many > 200*few {
		t.Errorf("%v allocations for 100 overlays, %v for 10,000", few, many)
	}
	h := NewTreeUse(mount.Mounts{entry(2, 8, 1, "/", "/", "rw")},
		mount.Filesystem{Major: 8, Minor: 1, Root: "/pool/uuid"}, nil)
	began := time.Now()
	h.FindOverlays(&Scan{all: []*View{NewView(table(16_000))}})
	if took := time.Since(began); took > 2*time.Second || !h.overlays[deviceNumber{0, 100}] {
		t.Errorf("%v: %v", took, h.overlays)
	}
}

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

// holdsHere reports whether this process uses the filesystem that is mounted on a path.
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
