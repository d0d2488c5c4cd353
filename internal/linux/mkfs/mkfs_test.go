package mkfs

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }

// A new filesystem has room for the requested size within 1 %. A filesystem that has grown step by step from the
// smallest size has room for its size within 3 %.
func TestDevice(t *testing.T) {
	for fs, least := range map[string]dataset.Size{Ext4: 16 * dataset.MiB, XFS: MinXFS} {
		grows := image(t, fs, least)
		for _, size := range []dataset.Size{
			least, 100 * dataset.MiB, 256 * dataset.MiB, 500 * dataset.MiB, 512 * dataset.MiB,
			dataset.GiB, 4 * dataset.GiB, 20 * dataset.GiB, dataset.TiB,
		} {
			if (Request{Chosen: fs, Filesystem: fs, Size: size}).Check() != nil {
				continue
			}
			if free := free(t, fs, image(t, fs, size), 0); far(free, size, 1) {
				t.Errorf("%s: into a new volume of %s fit %s", fs, size, free.Human())
			}
			if size > 20*dataset.GiB { // an XFS of this size would have thousands of groups
				continue
			}
			if free := free(t, fs, grows, Device(fs, size)); far(free, size, 3) {
				t.Errorf("%s: into a volume that has grown to %s fit %s", fs, size, free.Human())
			}
		}
	}
}

func far(have, want dataset.Size, percent float64) bool {
	return math.Abs(float64(have)/float64(want)-1) > percent/100
}

// image makes a volume as pools do.
func image(t *testing.T, fs string, size dataset.Size) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Truncate(path, int64(Device(fs, size))))
	more := map[string][]string{Ext4: {"-F", "-E", "nodiscard"}, XFS: {"-s", "size=4096"}}[fs]
	scratch.Run(t, "mkfs."+fs, slices.Concat(Args(fs, size), more, []string{path})...)
	return path
}

// free returns how many bytes can be written to a volume. If grow is not 0, the volume grows first.
func free(t *testing.T, fs, path string, grow dataset.Size) (free dataset.Size) {
	t.Helper()
	if grow != 0 {
		require.NoError(t, os.Truncate(path, int64(grow)))
		if fs == Ext4 {
			scratch.Run(t, "resize2fs", "-f", path)
		}
	}
	ok := t.Run("mounted", func(t *testing.T) {
		dir, err := os.Open(scratch.MountImage(t, fs, path))
		require.NoError(t, err)
		defer dir.Close()
		if grow != 0 && fs == XFS {
			require.NoError(t, fsctl.GrowXFS(dir, int64(grow)))
		}
		var st unix.Statfs_t
		require.NoError(t, unix.Fstatfs(int(dir.Fd()), &st))
		free = dataset.Size(st.Bavail) * dataset.Size(st.Bsize)
	})
	if !ok {
		t.FailNow()
	}
	return free
}
