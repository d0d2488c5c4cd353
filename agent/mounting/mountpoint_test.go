package mounting_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// A file in the mount point of a volume would be hidden by the mount, and be taken for lost. So not even root can put
// something there while nothing is mounted, also if a crash left the folder as it was created.
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

// If two requests both saw a volume unmounted, only one mounts it: a second mount over the first would outlive the
// last use.
func TestConcurrentMountsMountOnce(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	for range 2 {
		if err := r.Mounter.EnsureMounted(t.Context(), d, 0); err != nil {
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

// A mount that found the volume just before its removal is refused when its turn comes. The present users may
// continue.
func TestMountOfVolumeRemovedMeanwhile(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	d := r.NewVolume("db")
	asked := r.Cache.Moment()
	if err := r.Remove(ctx, "db"); err != nil {
		t.Fatal(err)
	}
	if err := r.Mounter.EnsureMounted(ctx, d, asked); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("mount of the removed volume: %v", err)
	}
	r.WantUses(d)

	used := r.NewVolume("used")
	r.MountDataset(used, "mine")
	asked = r.Cache.Moment()
	gone := used
	gone.State = dataset.StatePurging
	r.Cache.Apply(gone, r.Cache.Index(used.ID)+1)
	if path, err := r.Mounter.AddUse(ctx, used, asked, dataset.ParseReference("used"), "another"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("another use of the removed volume: %q, %v", path, err)
	}
	r.WantUses(used, "mine")
	if path, err := r.Mounter.AddUse(ctx, used, asked, dataset.ParseReference("used"), "mine"); err != nil || path == "" {
		t.Errorf("another mount by its present user: %q, %v", path, err)
	}
}

// A container starts right after drover trash restore, before this node has applied the restore: control answers that
// the volume exists, and the record in the cache still has it in the trash. The record of control counts. If the volume
// is deleted again while the mount waits for its turn, the record in the cache counts.
func TestMountRightAfterTrashRestore(t *testing.T) {
	f := agenttest.NewCluster(t, "dir", "dir")
	r, ctx := f.A, t.Context()
	d := r.NewVolume("db")
	if err := r.Remove(ctx, "db"); err != nil {
		t.Fatal(err)
	}
	trashed, _ := r.Cache.Dataset(d.ID)
	f.Submit(api.Request{Kind: dataset.OpUndelete, Volume: d.ID.String()})
	agenttest.Await(t, func() bool { now, _ := r.Cache.Dataset(d.ID); return now.State == dataset.StateReady })
	r.Cache.Apply(trashed, 0) // as if the restore had not arrived

	if _, err := r.Mount(ctx, "db", "right after"); err != nil {
		t.Fatalf("mount right after the restore: %v", err)
	}
	r.WantUses(d, "right after")
	r.Cache.Apply(trashed, 0)
	if _, err := r.Mount(ctx, "db", "second"); err != nil {
		t.Errorf("second mount right after the restore: %v", err)
	}
	asked := r.Cache.Moment()
	r.Cache.Apply(d, 0)
	r.Cache.Apply(trashed, 0)
	if _, err := r.Mounter.MayMount(d, asked); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("mount of the volume that was deleted meanwhile: %v", err)
	}
}
