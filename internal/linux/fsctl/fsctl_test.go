package fsctl_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func TestFreezeStopsWritersUntilThaw(t *testing.T) {
	mnt := scratch.Mount(t, "ext4", scratch.Ext4)
	dir := open(t, mnt)
	assert.ErrorIsf(t, fsctl.Thaw(dir), fsctl.ErrNotFrozen, "thaw of a live one")
	require.NoError(t, fsctl.Freeze(dir))
	defer func() { _ = fsctl.Thaw(dir) }()
	assert.ErrorIsf(t, fsctl.Freeze(dir), fsctl.ErrFrozen, "freeze twice")
	var writer sync.WaitGroup
	done := make(chan error, 1)
	writer.Go(func() { done <- os.Mkdir(filepath.Join(mnt, "d"), 0o700) })
	if _, err := os.Stat(filepath.Join(mnt, "d")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("made while frozen: %v", err)
	}
	if len(done) != 0 {
		t.Error("the writer did not wait")
	}
	require.NoError(t, fsctl.Thaw(dir))
	writer.Wait()
	assert.NoError(t, <-done)
}

func TestImmutable(t *testing.T) {
	for fstype, size := range map[string]int64{"xfs": scratch.XFS, "btrfs": scratch.Btrfs, "ext4": scratch.Ext4} {
		t.Run(fstype, func(t *testing.T) {
			path := filepath.Join(scratch.Mount(t, fstype, size), "dir")
			require.NoError(t, os.Mkdir(path, 0o700))
			dir := open(t, path)
			for range 2 {
				require.NoError(t, fsctl.SetImmutable(dir, true))
			}
			assert.ErrorIsf(t, os.WriteFile(filepath.Join(path, "f"), nil, 0o600), unix.EPERM, "write")
			for range 2 {
				require.NoError(t, fsctl.SetImmutable(dir, false))
			}
			assert.NoError(t, os.WriteFile(filepath.Join(path, "f"), nil, 0o600))
			assert.NoError(t, fsctl.Sync(dir))
		})
	}
}

func TestKindOf(t *testing.T) {
	for fstype, size := range map[string]int64{"xfs": scratch.XFS, "btrfs": scratch.Btrfs, "ext4": scratch.Ext4} {
		if got, err := fsctl.KindOf(scratch.Mount(t, fstype, size)); err != nil || string(got) != fstype {
			t.Errorf("%s: %s, %v", fstype, got, err)
		}
	}
	if got, err := fsctl.KindOf("/proc"); err != nil || got != "0x9fa0" {
		t.Errorf("/proc: %s, %v", got, err)
	}
	if _, err := fsctl.KindOf("/nonexistent"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

// grown mounts a filesystem on a device that was enlarged after mkfs, and returns the directory of the mount.
func grown(t *testing.T, fstype string, from, to int64) *os.File {
	t.Helper()
	image := scratch.Image(t, fstype, from)
	d, err := loopdev.Attach(t.Context(), image, loopdev.Options{BlockSize: 4096})
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	dir, err := mount.Detached(mount.Spec{Source: d.Path, FSType: fstype})
	require.NoError(t, err)
	t.Cleanup(func() { dir.Close() })
	require.NoError(t, os.Truncate(image, to))
	require.NoError(t, loopdev.SetCapacity(d.Path))
	return dir
}

func total(t *testing.T, dir *os.File) int64 {
	t.Helper()
	var st unix.Statfs_t
	require.NoError(t, unix.Fstatfs(int(dir.Fd()), &st))
	return int64(st.Blocks) * st.Frsize
}

func TestGrowXFS(t *testing.T) {
	const from, to = scratch.XFS, 2 * scratch.XFS
	dir := grown(t, "xfs", from, to)
	before := total(t, dir)
	for range 2 {
		require.NoError(t, fsctl.GrowXFS(dir, to))
	}
	if grew := total(t, dir) - before; grew < (to-from)*98/100 {
		t.Errorf("grew by %d of %d bytes", grew, to-from)
	}
	assert.NoErrorf(t, fsctl.GrowXFS(dir, to+4096), "less than a group more")
	assert.ErrorIsf(t, fsctl.GrowXFS(dir, from), fsctl.ErrShrink, "smaller")
	if err := fsctl.GrowXFS(dir, 2*to); err == nil || errors.Is(err, fsctl.ErrShrink) {
		t.Errorf("larger than the device: %v", err)
	}
	if err := fsctl.GrowXFS(open(t, "/"), to); err == nil {
		t.Error("grew what is no XFS")
	}
}

// If the process lacks CAP_SYS_RESOURCE, the error must say so.
func TestGrowExt4(t *testing.T) {
	const from, to = scratch.Ext4, 3 * scratch.Ext4
	dir := grown(t, "ext4", from, to)
	before := total(t, dir)
	err := fsctl.GrowExt4(dir, to)
	can, canErr := fsctl.CanGrowExt4()
	require.NoError(t, canErr)
	if !can {
		if !errors.Is(err, fsctl.ErrCapability) || total(t, dir) != before {
			t.Errorf("without the capability: %v", err)
		}
		return
	}
	require.NoError(t, err)
	assert.NoErrorf(t, fsctl.GrowExt4(dir, to), "again")
	if grew := total(t, dir) - before; grew < (to-from)*95/100 {
		t.Errorf("grew by %d of %d bytes", grew, to-from)
	}
	assert.ErrorIsf(t, fsctl.GrowExt4(dir, from), fsctl.ErrShrink, "smaller")
}

func TestCowExtentSize(t *testing.T) {
	mnt := scratch.Mount(t, "xfs", scratch.XFS)
	dir := open(t, mnt)
	for range 2 {
		require.NoError(t, fsctl.SetCowExtentSize(dir, 8192))
	}
	file := filepath.Join(mnt, "f")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	got, err := exec.CommandContext(t.Context(), "xfs_io", "-r", "-c", "cowextsize", file).CombinedOutput()
	if err != nil || !strings.HasPrefix(string(got), "[8192] ") {
		t.Errorf("a new file has %s, %v", got, err)
	}
	if err := fsctl.SetCowExtentSize(dir, 1000); err == nil {
		t.Error("set to a part of a block")
	}
}

// After a file was emptied and the filesystem trimmed, the image below the filesystem has fewer blocks.
func TestTrim(t *testing.T) {
	image := scratch.Image(t, "xfs", scratch.XFS)
	at := scratch.MountImage(t, "xfs", image)
	file := filepath.Join(at, "f")
	dir, err := os.Open(at)
	require.NoError(t, err)
	defer dir.Close()
	require.NoError(t, os.WriteFile(file, make([]byte, 64<<20), 0o600))
	require.NoError(t, fsctl.Sync(dir))
	full := blocks(t, image)
	if err := os.Truncate(file, 0); err != nil { // XFS frees the blocks of a removed file later
		t.Fatal(err)
	}
	require.NoError(t, fsctl.Sync(dir))
	told, err := fsctl.Trim(dir)
	if left := blocks(t, image); err != nil || told < 64<<20 || full-left < 60<<20 {
		t.Errorf("%d bytes told, %v; %d of %d are left", told, err, left, full)
	}
}

func blocks(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path, &st))
	return st.Blocks * 512
}

// While a file with holes is cloned that is larger than the free space, statfs(2) reports for moments that nothing is
// free.
func TestSpaceBesideClones(t *testing.T) {
	t.Parallel()
	dir := scratch.Mount(t, "xfs", 1<<30)
	source, err := os.Create(filepath.Join(dir, "source"))
	if err == nil {
		_, err = source.WriteAt([]byte("end"), 10<<30)
	}
	require.NoError(t, err)
	defer source.Close()
	var cloning sync.WaitGroup
	defer cloning.Wait()
	end := make(chan struct{})
	defer close(end)
	cloning.Go(func() {
		for {
			select {
			case <-end:
				return
			default:
			}
			to, err := os.Create(filepath.Join(dir, "clone"))
			if err == nil {
				err = errors.Join(unix.IoctlFileClone(int(to.Fd()), int(source.Fd())), to.Close())
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	dips := 0
	for range 20_000 {
		var st unix.Statfs_t
		free, size, err := fsctl.Space(dir)
		if err == nil {
			err = unix.Statfs(dir, &st)
		}
		require.NoError(t, err)
		if int64(st.Bavail) < int64(st.Blocks/2) {
			dips++
		}
		if free < size/2 {
			t.Fatalf("%d bytes free of %d", free, size)
		}
	}
	t.Logf("statfs(2) said too little %d times", dips)
}
