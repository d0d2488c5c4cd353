package mounting_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// What lies where a volume is to be mounted would be hidden by it, and taken for lost:
// root neither can put something there while nothing is mounted, also where a crash
// had left the folder as it was made.
func TestNothingCanBePutIntoAMountPoint(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	path := r.MountPath(d.ID)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	r.MountDataset(d, "id")
	if err := os.WriteFile(filepath.Join(path, "file"), []byte("in the volume"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Unmount(t.Context(), "db", "id"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "file"), []byte("beside it"), 0o600); !errors.Is(err, unix.EPERM) {
		t.Errorf("written into %s while nothing is mounted there: %v", path, err)
	}
	if err := r.Remove(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mount point of a volume that was removed: %v", err)
	}
}

// Of two requests that both saw a volume unmounted one mounts it: a second mount over
// the first would outlive the last use.
func TestConcurrentMountsMountOnce(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	for range 2 {
		if err := r.Mounter.EnsureMounted(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	table, err := mount.Table()
	if err != nil {
		t.Fatal(err)
	}
	mounts := 0
	for _, m := range table {
		if m.Mountpoint == r.MountPath(d.ID) {
			mounts++
		}
	}
	if mounts != 1 {
		t.Errorf("%d mounts", mounts)
	}
}

// A mount that found the volume just before its removal is refused when its turn
// comes; who has it mounted already may go on.
func TestMountOfVolumeRemovedMeanwhile(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	d := r.NewVolume("db")
	if err := r.Remove(ctx, "db"); err != nil {
		t.Fatal(err)
	}
	if err := r.Mounter.EnsureMounted(ctx, d); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("mount of what was removed: %v", err)
	}
	r.WantUses(d)

	used := r.NewVolume("used")
	r.MountDataset(used, "mine")
	gone := used
	gone.State = dataset.StatePurging
	r.Cache.Apply(gone, r.Cache.Index(used.ID)+1)
	if path, err := r.Mounter.AddUse(ctx, used, dataset.ParseReference("used"), "another"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("a further use of what was removed: %q, %v", path, err)
	}
	r.WantUses(used, "mine")
	if path, err := r.Mounter.AddUse(ctx, used, dataset.ParseReference("used"), "mine"); err != nil || path == "" {
		t.Errorf("a further use by who has it: %q, %v", path, err)
	}
}
