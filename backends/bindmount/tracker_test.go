package bindmount

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// The part of a share that a mount shows decides whether a dataset is in use. A mount whose part is unknown may show
// the dataset.
func TestMountedOfAShare(t *testing.T) {
	folder := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(folder, "head"), 0o700))
	root := func(path string) string {
		info, err := os.Stat(path)
		require.NoError(t, err)
		return rootOf(info)
	}
	for name, c := range map[string]struct {
		root string
		want use
	}{
		"it":                     {root(folder), use{point: "/data"}},
		"its head":               {root(filepath.Join(folder, "head")), use{point: "/data"}},
		"another":                {root(filepath.Dir(folder)), use{}},
		"what was not looked up": {"/", use{point: "/data", unsure: true}},
	} {
		dir, err := os.Open(folder)
		require.NoError(t, err)
		roots, err := rootsOf(dir)
		at := useOfShare(roots, mount.Mounts{{FSType: "nfs4", Root: c.root, Mountpoint: "/data"}})
		if err != nil || at != c.want {
			t.Errorf("%s: mounted at %+v, %v", name, at, err)
		}
		assert.NoError(t, dir.Close())
	}
}

// I11: a dataset counts as unused only after the other mount namespaces and the open files were examined. A failed look
// is an error.
func TestI11FailedLookIsNoAnswer(t *testing.T) {
	failed := errors.New("no /proc")
	for name, c := range map[string]struct{ mounts, files error }{
		"none":        {},
		"at mounts":   {mounts: failed},
		"at files":    {files: failed},
		"at anything": {failed, failed},
	} {
		u := Tracker{
			elsewhere: func() (*mount.Foreign, error) { return &mount.Foreign{}, c.mounts },
			files: func(context.Context, []mount.Filesystem) (*inuse.Files, error) {
				return &inuse.Files{}, c.files
			},
		}
		want := cmp.Or(c.mounts, c.files)
		if err := u.CheckIdle(t.Context(), uuid.New(), t.TempDir()); !errors.Is(err, want) {
			t.Errorf("%s fails: got %v, want %v", name, err, want)
		}
	}
}

// noFiles is a look that finds no open files.
func noFiles(context.Context, []mount.Filesystem) (*inuse.Files, error) { return &inuse.Files{}, nil }

// I11: a dataset is in use while its folder is mounted in a second place, and while anything is mounted in it.
func TestI11MountedHere(t *testing.T) {
	folder, elsewhere := t.TempDir(), t.TempDir()
	inside := filepath.Join(folder, "head")
	require.NoError(t, os.Mkdir(inside, 0o700))
	var u Tracker
	for name, c := range map[string]struct {
		source, target, fstype string
		flags                  uintptr
	}{
		"the folder":               {folder, elsewhere, "", unix.MS_BIND},
		"its head":                 {inside, elsewhere, "", unix.MS_BIND},
		"another filesystem in it": {"none", inside, "tmpfs", 0},
	} {
		require.NoError(t, u.CheckIdle(t.Context(), uuid.New(), folder))
		require.NoError(t, unix.Mount(c.source, c.target, c.fstype, c.flags, ""))
		assert.ErrorIsf(t, u.CheckIdle(t.Context(), uuid.New(), folder), dataset.ErrInUse, "%s is mounted", name)
		require.NoError(t, unix.Unmount(c.target, 0))
	}
}

// TestI11LooksAgain: while a container starts, its runtime has a copy of each mount of the host for a moment. A dataset
// that is mounted only in such a copy does not count as in use after the copy has disappeared. A dataset that
// stays mounted for longer counts.
func TestI11LooksAgain(t *testing.T) {
	for name, c := range map[string]struct {
		endsAfter, cancelAfter, looks int // numbers of looks
		want                          error
	}{
		"gone at the second look":  {endsAfter: 1, looks: 2},
		"gone at the last look":    {endsAfter: checks, looks: checks + 1},
		"held for longer":          {looks: checks + 1, want: dataset.ErrInUse},
		"nobody waits any more":    {cancelAfter: 1, looks: 1, want: dataset.ErrInUse},
		"given up between the two": {cancelAfter: 2, looks: 2, want: dataset.ErrInUse},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			end := holder(t, folder)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			looks := 0
			u := Tracker{files: noFiles, elsewhere: func() (*mount.Foreign, error) {
				looks++
				seen, err := mount.ReadForeign()
				if looks == c.endsAfter {
					end()
				}
				if looks == c.cancelAfter {
					cancel()
				}
				return seen, err
			}}
			if err := u.CheckIdle(ctx, uuid.New(), folder); !errors.Is(err, c.want) || looks != c.looks {
				t.Errorf("%v after %d looks, want %v after %d", err, looks, c.want, c.looks)
			}
		})
	}
}

// The look at open files covers each directory for which its result is used: see inuse.FindOpenFiles.
func TestOpenFilesOfEachDirectory(t *testing.T) {
	var looked []mount.Filesystem
	u := Tracker{files: func(_ context.Context, trees []mount.Filesystem) (*inuse.Files, error) {
		looked = trees
		return &inuse.Files{}, nil
	}}
	tree := mount.Filesystem{Major: 0, Minor: 99}
	_, err := u.findOpener(t.Context(), tree, map[string]bool{"inode:1": true, "inode:2": true})
	require.NoError(t, err)
	var roots []string
	for _, l := range looked {
		roots = append(roots, l.Root)
	}
	slices.Sort(roots)
	if !slices.Equal(roots, []string{"inode:1", "inode:2"}) {
		t.Errorf("looked at %q", roots)
	}
}

// holder starts a process that has a folder mounted in a separate mount namespace until end is called.
func holder(t *testing.T, folder string) (end func()) {
	t.Helper()
	cmd := exec.Command("sh", "-c", `mount --bind "$0" "$1" && echo ready && exec sleep infinity`, folder, t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // Go makes all mounts private in it
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	require.NoError(t, err)
	end = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(end)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	return end
}

// A process that cannot be examined keeps a ready dataset, and no incoming one, such as the clone of a backup: any user
// can start such a process.
func TestIncomingIsRemovedBesideStrangers(t *testing.T) {
	u := Tracker{files: noFiles, elsewhere: func() (*mount.Foreign, error) { return nil, mount.ErrTooLarge }}
	id, folder := uuid.New(), t.TempDir()
	assert.ErrorIsf(t, u.CheckRemovable(t.Context(), id, folder, backends.EntryReady), mount.ErrTooLarge, "ready")
	assert.NoErrorf(t, u.CheckRemovable(t.Context(), id, folder, backends.EntryIncoming), "incoming")
	at := u.Attach(id, folder, false)
	assert.ErrorIsf(t, u.CheckRemovable(t.Context(), id, folder, backends.EntryIncoming), dataset.ErrInUse, "attached")
	assert.NoError(t, at.Release())
}
