package mounting_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A file in the mount point of a volume would be hidden by the mount, and be taken for lost. So not even root can put
// something there while nothing is mounted, also if a crash left the folder as it was created.
func TestNothingCanBePutIntoAMountPoint(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	path := r.MountPath(d.ID)
	require.NoError(t, os.Mkdir(path, 0o700))
	r.MountDataset(d, "id")
	require.NoError(t, os.WriteFile(filepath.Join(path, "file"), []byte("in the volume"), 0o600))
	require.NoError(t, r.Unmount(t.Context(), "db", "id"))
	if err := os.WriteFile(filepath.Join(path, "file"), []byte("beside it"), 0o600); !errors.Is(err, unix.EPERM) {
		t.Errorf("written into %s while nothing is mounted there: %v", path, err)
	}
	require.NoError(t, r.Remove(t.Context(), "db"))
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
		require.NoError(t, r.EnsureMounted(t.Context(), d, 0))
	}
	table, err := mount.Table()
	require.NoError(t, err)
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
	require.NoError(t, r.Remove(ctx, "db"))
	assert.ErrorIsf(t, r.EnsureMounted(ctx, d, asked), dataset.ErrNotFound, "mount of the removed volume")
	r.WantUses(d)

	used := r.NewVolume("used")
	r.MountDataset(used, "mine")
	asked = r.Cache.Moment()
	gone := used
	gone.State = dataset.StatePurging
	r.Cache.Apply(gone, r.Cache.Index(used.ID)+1)
	if path, err := r.AddUse(ctx, used, asked, dataset.ParseReference("used"), "another"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("another use of the removed volume: %q, %v", path, err)
	}
	r.WantUses(used, "mine")
	if path, err := r.AddUse(ctx, used, asked, dataset.ParseReference("used"), "mine"); err != nil || path == "" {
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
	require.NoError(t, r.Remove(ctx, "db"))
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
	if _, err := r.MayMount(d, asked); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("mount of the volume that was deleted meanwhile: %v", err)
	}
}

// A mount that the host kept busy when its last use ended is unmounted later, and that is reported. A request that
// was refused because of it is not repeated, and that is reported too.
func TestBusyUnmountIsRetried(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MountDataset(d, "id")
	shell, err := os.Open(r.MountPath(d.ID))
	require.NoError(t, err)
	defer shell.Close()
	if err := r.Unmount(t.Context(), "db", "id"); !errors.Is(err, dataset.ErrInUse) || !strings.HasSuffix(err.Error(), "; retrying the unmount") {
		t.Errorf("unmount while the host is in it: %v", err)
	}
	if err := r.Remove(t.Context(), "db"); !errors.Is(err, dataset.ErrInUse) || !strings.HasSuffix(err.Error(), "; retrying the unmount; try again to remove it after that") {
		t.Errorf("remove while the host is in it: %v", err)
	}
	require.NoError(t, shell.Close())
	agenttest.Await(t, func() bool {
		r.FakeClock.Advance(mounting.IdleLimit)
		mounted, err := host.IsMountPoint(r.MountPath(d.ID))
		return err == nil && !mounted
	})
	r.WantUses(d)
	assert.NoError(t, r.Remove(t.Context(), "db"))
}

// The kernel reports a damaged filesystem as an errno, so the error also says what to do. Errors that are not caused
// by damage have no such remedy.
func TestMountErrorOfDamagedFilesystemHasRemedy(t *testing.T) {
	for _, c := range []struct {
		step string
		err  error
		want bool
	}{
		{mount.StepCreate, unix.EIO, true},
		{mount.StepCreate, unix.EUCLEAN, true},
		{mount.StepCreate, unix.EBADMSG, true},
		{mount.StepCreate, unix.EINVAL, true},
		{mount.StepCreate, unix.EBUSY, false},
		{"option nonsense", unix.EINVAL, false},
	} {
		failed := &mount.Error{Spec: mount.Spec{Source: "/dev/loop1", FSType: "xfs"}, Step: c.step, Err: c.err}
		err := mounting.ExplainMountError(failed)
		if !errors.Is(err, c.err) || strings.Contains(err.Error(), "drover snapshot restore") != c.want {
			t.Errorf("%v", err)
		}
	}
	empty := filepath.Join(t.TempDir(), "image")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	require.NoError(t, os.Truncate(empty, 16<<20))
	dev, err := loopdev.Attach(t.Context(), empty, loopdev.Options{})
	require.NoError(t, err)
	err = mounting.MountAttached(backends.Attachment{Mount: backends.Mount{Source: dev.Path, FSType: "ext4"}, Release: dev.Close}, t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "drover snapshot restore") {
		t.Errorf("a mount of zeros: %v", err)
	}
}

// A program that writes to a volume below OpenRoot and tree.NoFollow, as restic does in a restore, writes through no
// link and opens no device, on each kind of pool.
func TestOpenRootFollowsNoLink(t *testing.T) {
	for _, backend := range []string{"loop", "dir"} {
		f := agenttest.NewCluster(t, backend, "dir")
		d := f.A.NewVolume("db")
		root, err := mounting.OpenRoot(t.Context(), f.A.Pool(), d.ID)
		require.NoError(t, err)
		at := fmt.Sprintf("/proc/%d/fd/%d/", os.Getpid(), root.Fd())
		victim := filepath.Join(t.TempDir(), "victim")
		if err := errors.Join(os.Symlink(victim, at+"link"), unix.Mknod(at+"null", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3)))); err != nil {
			t.Error(err)
		}
		assert.ErrorIsf(t, os.WriteFile(at+"link", nil, 0o600), unix.ELOOP, "%s: a write through a link", backend)
		assert.ErrorIsf(t, os.WriteFile(at+"null", nil, 0o600), unix.EACCES, "%s: a write to a device", backend)
		assert.NoError(t, root.Close())
	}
}

// A mount ID that control would refuse in a report is refused at once, and does not mount the volume.
func TestMountIDIsBounded(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	if _, err := r.Mount(t.Context(), "db", strings.Repeat("i", dataset.MaxMountID+1)); !errors.Is(err, dataset.ErrInvalid) {
		t.Errorf("mounted with an ID of more than %d bytes: %v", dataset.MaxMountID, err)
	}
	r.WantUses(d)
}

func TestMain(m *testing.M) { agenttest.Main(m) }
