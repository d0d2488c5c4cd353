package mkfs

import (
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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

// A filesystem that has grown has at most a quarter more inodes than a new one of its size: otherwise a backup of its
// files could not be restored. The quarter is a group of blocks at the end, which a small filesystem gets as a whole.
func TestInodesOfGrownVolume(t *testing.T) {
	grows := image(t, Ext4, 256*dataset.MiB)
	var st unix.Statfs_t
	inodes := func(path string) uint64 {
		t.Run("mounted", func(t *testing.T) {
			require.NoError(t, unix.Statfs(scratch.MountImage(t, Ext4, path), &st))
		})
		return st.Files
	}
	for _, size := range []dataset.Size{256 * dataset.MiB, 640 * dataset.MiB, 2 * dataset.GiB} {
		free(t, Ext4, grows, Device(Ext4, size))
		if was, now := inodes(grows), inodes(image(t, Ext4, size)); now < was*4/5 {
			t.Errorf("%s: %d inodes after growth, and %d in a new volume", size, was, now)
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

// The kernel mounts a filesystem, but the program that creates it must be installed. A program that was missing when a
// pool was opened is found after it was installed.
func TestWithoutMkfs(t *testing.T) {
	tools, bin := map[string]string{}, t.TempDir()
	for _, fs := range []string{XFS, Ext4} {
		path, err := exec.LookPath("mkfs." + fs)
		require.NoError(t, err)
		tools[fs] = path
	}
	t.Setenv("PATH", bin)
	none := DetectHost()
	if len(none.Makes) > 0 || !slices.Equal(none.Mounts, []string{XFS, Ext4}) {
		t.Errorf("without tools: %+v", none)
	}
	refused := func(err error, says ...string) {
		t.Helper()
		if !errors.Is(err, dataset.ErrUnsupported) || strings.Contains(err.Error(), "\n") {
			t.Fatal(err)
		}
		for _, s := range says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%v does not say %q", err, s)
			}
		}
	}
	refused(none.CheckAny(none.Makes, "x"), "apt-get install xfsprogs", "apt-get install e2fsprogs")
	_, err := Choose("", dataset.GiB, nil)
	refused(err, "apt-get install xfsprogs", "apt-get install e2fsprogs")
	for fs, pkg := range map[string]string{XFS: "xfsprogs", Ext4: "e2fsprogs"} {
		_, err := Choose(fs, dataset.GiB, nil)
		refused(err, `filesystem "`+fs+`" is not available`, "apt-get install "+pkg)
		refused(CheckUsable(fs), "apt-get install "+pkg)
	}
	for i, fs := range []string{Ext4, XFS} {
		require.NoError(t, os.Symlink(tools[fs], filepath.Join(bin, "mkfs."+fs)))
		if got, err := Choose("", dataset.GiB, nil); err != nil || got != fs {
			t.Errorf("with %s: %q, %v", fs, got, err)
		}
		got, err := Choose(XFS, dataset.GiB, []string{Ext4})
		if i == 0 {
			refused(err, "apt-get install xfsprogs")
		} else if err != nil || got != XFS {
			t.Errorf("once it is there: %q, %v", got, err)
		}
	}
	_, err = Choose("ntfs", dataset.GiB, []string{XFS, Ext4})
	refused(err, `filesystem "ntfs" is not available for volumes here (available: xfs, ext4)`)
	if got, err := Choose("", MinXFS-1, []string{XFS, Ext4}); got != Ext4 || err != nil {
		t.Errorf("a small one: %q, %v", got, err)
	}
}
