package dir_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/backendtest/crashing"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// on returns a factory of pools below a directory that is made for each test.
func on(parent func(t *testing.T) string) backendtest.Factory[*testing.T] {
	return func(t *testing.T) (backends.Kind, backends.Config) {
		return dir.Backend{}, backends.Config{Name: "test", Path: filepath.Join(parent(t), "pool")}
	}
}

func TestSuite(t *testing.T) {
	backendtest.Run(t, "host", on(func(t *testing.T) string { return t.TempDir() }))
	backendtest.Run(t, "tmpfs", on(tmpfs))
	for _, fs := range []string{"xfs", "btrfs"} {
		backendtest.Run(t, fs, on(func(t *testing.T) string { return scratch.Mount(t, fs, 1<<30) }))
	}
}

// I3: an operation of which any system call fails damages nothing in the pool.
func TestI3FailingCalls(t *testing.T) { crashing.FailingCalls(t, "tmpfs", on(tmpfs)) }

func tmpfs(t *testing.T) string { return tmpfsOf(t, "1g") }

func tmpfsOf(t *testing.T, size string) string {
	t.Helper()
	path := t.TempDir()
	require.NoError(t, unix.Mount("none", path, "tmpfs", 0, "size="+size))
	t.Cleanup(func() {
		assert.NoError(t, unix.Unmount(path, 0))
	})
	return path
}

func TestPowerCut(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		crashing.PowerCut(t, dir.Backend{}, fs)
	}
}

// Without project quotas, the pool reports how to get them. If the kernel has none, it names another kernel.
func TestWhatSizesNeed(t *testing.T) {
	for fs, mend := range map[string]string{
		"ext4": "tune2fs -O project,quota /dev/loop",
		"xfs":  "unmount its filesystem and mount it with -o prjquota",
	} {
		at := scratch.Mount(t, fs, 1<<30)
		root, err := os.Open(at)
		require.NoError(t, err)
		_, err = fsctl.EnforcesProjects(root)
		if errors.Is(err, fsctl.ErrNoProjects) {
			mend, err = "sizes need another kernel, because this one does not support project quotas for "+fs, nil
		}
		require.NoError(t, errors.Join(err, root.Close()))
		p, err := dir.Backend{}.Open(t.Context(), backends.Config{
			Name: "test",
			Path: filepath.Join(at, "pool"),
			Make: true,
		})
		require.NoError(t, err)
		if is := p.Info(); len(is.Missing) != 1 || !strings.Contains(is.Missing[0], mend) ||
			!strings.Contains(is.Note, ": no size limits;") {
			t.Errorf("on %s it says %q and misses %q, want %q", fs, is.Note, is.Missing, mend)
		}
		assert.NoError(t, p.Close())
	}
}
