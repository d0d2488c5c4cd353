package fsctl_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// After a fence nobody can write, and everything from before is on the disk. That is also true if a killed process has
// left the filesystem frozen. A fence that fails changes nothing.
func TestFence(t *testing.T) {
	for fs, options := range map[string][]string{"xfs": {"nouuid"}, "ext4": nil} {
		t.Run(fs, func(t *testing.T) {
			image := scratch.Image(t, fs, scratch.XFS)
			at := scratch.MountImage(t, fs, image)
			file := filepath.Join(at, "file")
			write := func(text string) error { return os.WriteFile(file, []byte(text), 0o600) }
			failure := errors.New("failure")
			assert.ErrorIs(t, fsctl.Fence(t.Context(), open(t, at), func() error { return failure }), failure)
			assert.NoErrorf(t, write("before"), "after a fence that failed")
			dir := open(t, at)
			require.NoError(t, fsctl.Freeze(dir))
			copied := filepath.Join(t.TempDir(), "copy")
			err := fsctl.Fence(t.Context(), open(t, at), func() error {
				assert.ErrorIsf(t, fsctl.Freeze(dir), fsctl.ErrFrozen, "not frozen")
				scratch.Copy(t, image, copied)
				return nil
			})
			require.NoError(t, err)
			assert.ErrorIsf(t, write("after"), unix.EIO, "a write after the fence")
			got, err := os.ReadFile(filepath.Join(scratch.MountImage(t, fs, copied, options...), "file"))
			if string(got) != "before" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// A fence does not wait for a disk that hangs. The filesystem stays usable when the disk answers again.
func TestFenceOfAHangingFilesystem(t *testing.T) {
	pool := scratch.Mount(t, "xfs", 512<<20)
	image := filepath.Join(pool, "image")
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, scratch.Ext4))
	scratch.Format(t, "ext4", image)
	at := scratch.MountImage(t, "ext4", image)
	require.NoError(t, os.WriteFile(filepath.Join(at, "file"), make([]byte, 1<<20), 0o600))
	disk := open(t, pool)
	require.NoError(t, fsctl.Freeze(disk))
	slow := errors.New("too slow")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, slow)
	defer cancel()
	err := fsctl.Fence(ctx, open(t, at), func() error { t.Error("it was frozen"); return nil })
	require.NoError(t, fsctl.Thaw(disk))
	assert.ErrorIs(t, err, slow)
	assert.NoError(t, os.WriteFile(filepath.Join(at, "file"), []byte("later"), 0o600))
}
