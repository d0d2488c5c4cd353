package mount

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func shared(id int, root, point string) *Entry {
	return &Entry{ID: id, Major: 0, Minor: 50, Root: root, Mountpoint: point, FSType: "nfs4"}
}

// On a share, the inode of the root directory of a mount distinguishes the volume of a container from others. A mount
// that cannot be identified counts as a mount of every volume.
func TestHoldersOnAShare(t *testing.T) {
	const path = "/drover/mnt/db"
	disk := &Entry{ID: 5, Major: 8, Minor: 1, Root: "/", Mountpoint: "/"}
	own := Mounts{
		disk, shared(1, RootOf(2), "/mnt/share"), shared(2, RootOf(70), path),
		shared(3, RootOf(71), "/drover/mnt/other"),
	}
	for _, e := range own[1:] {
		e.Parent = disk.ID
	}
	db := Filesystem{Major: 0, Minor: 50, Root: RootOf(70)}
	for name, c := range map[string]struct {
		e    *Entry
		want bool
	}{
		"it":                             {shared(9, RootOf(70), "/data"), true},
		"a service's copy of our mounts": {shared(9, RootOf(70), path), false},
		"another volume":                 {shared(9, RootOf(71), "/data"), false},
		"all of the share":               {shared(9, RootOf(2), "/srv"), false},
		"a folder, of it or of others":   {shared(9, RootOf(99), "/data"), true},
		"what was not looked up":         {shared(9, "/", "/data"), true},
		"another share": {
			&Entry{ID: 9, Minor: 51, Root: "/", Mountpoint: "/data", FSType: "nfs4"}, false,
		},
	} {
		m := foreignMount{Entry: c.e, holder: Holder{PID: 1}}
		m.place, m.placed = placeIn(disk, c.e.Mountpoint)
		f := Foreign{own: own, mounts: []foreignMount{m}}
		if got := len(f.Holders(db, path)) == 1; got != c.want {
			t.Errorf("%s: it holds it: %t", name, got)
		}
	}
}

// A mount of a share inside a FUSE filesystem whose daemon does not answer is not looked up, because the lookup would
// wait for ever.
func TestShareInsideDeadFUSE(t *testing.T) {
	dir := t.TempDir()
	daemon, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	end := sync.OnceFunc(func() { _ = unix.Close(daemon) }) // ends what waits for it
	t.Cleanup(end)
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", daemon)
	require.NoError(t, unix.Mount("dead", dir, "fuse.dead", 0, options))
	t.Cleanup(func() { assert.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	table, err := Table()
	require.NoError(t, err)
	e := shared(1, "/", dir+"/share")
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := append(table, e).resolveShareRoots("/proc/thread-self/root",
			func(int) error { return nil }); err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("it waits for the daemon")
		end()
		<-done
	}
	if !HasUnknownRoot(e) {
		t.Errorf("its root is %s", e.Root)
	}
}

// A mount of a share inside a filesystem with a daemon is looked up if the kernel need not ask the daemon. So
// each container counts for its own volume only if its root directory is a FUSE.
func TestShareInsideKnownFUSE(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, unix.Mount("none", dir, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { assert.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	at := dir + "/share"
	require.NoError(t, errors.Join(os.Mkdir(at, 0o700), unix.Mount("none", at, "tmpfs", 0, "size=1m")))
	table, err := Table()
	require.NoError(t, err)
	table.At(dir).FSType, table.At(at).FSType = "fuse.known", "nfs4"
	require.NoError(t, table.resolveShareRoots("/proc/thread-self/root", func(int) error { return nil }))
	if e := table.At(at); HasUnknownRoot(e) {
		t.Errorf("its root is %s", e.Root)
	}
}

// The root of each mount of a share is looked up, unless the lookup would send a request to the server, or another
// mount covers the mount.
func TestTellShares(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir()}
	dirs = append(dirs, dirs[0]+"/in")
	mounted := func(at string) {
		t.Helper()
		require.NoError(t, unix.Mount("none", at, "tmpfs", 0, "size=1m"))
		t.Cleanup(func() { assert.NoError(t, unix.Unmount(at, 0)) })
	}
	mounted(dirs[0])
	require.NoError(t, os.Mkdir(dirs[2], 0o700))
	mounted(dirs[2])
	mounted(dirs[1])
	mounted(dirs[1])
	table, err := Table()
	require.NoError(t, err)
	var got []string
	for _, e := range table {
		if slices.Contains(dirs, e.Mountpoint) {
			e.FSType, e.Root = "nfs4", "/"
		}
	}
	require.NoError(t, table.resolveShareRoots("/proc/self/root", func(int) error { return nil }))
	for _, at := range dirs[:2] {
		for _, e := range table {
			if e.Mountpoint == at {
				got = append(got, e.Root)
			}
		}
	}
	inode := func(path string) string {
		info, err := os.Stat(path)
		require.NoError(t, err)
		return RootOf(info.Sys().(*syscall.Stat_t).Ino)
	}
	want := []string{inode(dirs[0]), "/", inode(dirs[1])}
	if !slices.Equal(got, want) {
		t.Errorf("roots %q, want %q", got, want)
	}
	if at := table.At(dirs[2]); at.Root != "/" {
		t.Errorf("within a share it was looked up: %q", at.Root)
	}
}
