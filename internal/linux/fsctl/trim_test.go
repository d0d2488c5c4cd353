package fsctl_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

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
