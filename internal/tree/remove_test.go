package tree

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/tree/treetest"
)

func TestRemove(t *testing.T) {
	outer := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outer, "canary"), []byte("alive"), 0o600))
	dir := mkdir(t, outer, "dst")
	victim := mkdir(t, dir.Name(), "victim")
	treetest.Plant(t, victim.Name())
	must(t, os.Symlink("../..", filepath.Join(victim.Name(), "out")))
	for range 2 {
		must(t, Remove(t.Context(), dir, "victim"))
	}
	if got := listing(t, dir.Name()); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
	wantUntouched(t, outer)
}

func TestRemoveDeeperThanDescriptorsGo(t *testing.T) {
	dir := mkdir(t, t.TempDir(), "dir")
	must(t, os.Mkdir(filepath.Join(dir.Name(), "victim.1001"), 0o755)) // a name in the way
	must(t, os.Mkdir(filepath.Join(dir.Name(), "victim"), 0o755))
	at, err := unix.Openat(int(dir.Fd()), "victim", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	for range 3000 {
		must(t, unix.Mkdirat(at, "d", 0o755))
		next, err := unix.Openat(at, "d", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		must(t, unix.Close(at))
		at = next
	}
	must(t, unix.Close(at))
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1024, Max: old.Max}))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) }()
	must(t, Remove(t.Context(), dir, "victim"))
	if got := listing(t, dir.Name()); !cmp.Equal(got, []string{"victim.1001"}) {
		t.Errorf("left: %q", got)
	}
}

func TestRemoveStopsAtMounts(t *testing.T) {
	dir := mkdir(t, t.TempDir(), "dir")
	point := filepath.Join(dir.Name(), "victim/point")
	must(t, os.MkdirAll(point, 0o755))
	must(t, unix.Mount("none", point, "tmpfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(point, unix.MNT_DETACH)) })
	must(t, os.WriteFile(filepath.Join(point, "file"), []byte("precious"), 0o600))
	if err := Remove(t.Context(), dir, "victim"); !errors.Is(err, unix.EBUSY) {
		t.Errorf("got %v, want EBUSY", err)
	}
	if got := listing(t, point); len(got) != 1 {
		t.Errorf("the mount holds %q", got)
	}
}

func TestRemoveStopsWhenCancelled(t *testing.T) {
	dir := mkdir(t, t.TempDir(), "dir")
	must(t, os.MkdirAll(filepath.Join(dir.Name(), "victim/a"), 0o755))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Remove(ctx, dir, "victim"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}
