package mount_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// InMemory also finds memory below a filesystem in an image file. A filesystem without a device is not reported as
// memory, except for tmpfs.
func TestInMemory(t *testing.T) {
	tmpfs, at := t.TempDir(), t.TempDir()
	mountAt(t, tmpfs, mount.Spec{Source: "none", FSType: "tmpfs"})
	image := filepath.Join(tmpfs, "disk")
	scratch.Copy(t, scratch.Image(t, "btrfs", scratch.Btrfs), image) // a btrfs has another number than its device
	dev, err := loopdev.Attach(t.Context(), image, loopdev.Options{})
	require.NoError(t, err)
	mountAt(t, at, mount.Spec{Source: dev.Path, FSType: "btrfs"})
	require.NoError(t, dev.Close())
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(at, link))
	for path, want := range map[string]string{
		tmpfs: "tmpfs", image: "tmpfs", filepath.Join(at, "not there"): "tmpfs", link: "tmpfs", "/proc": "", "/sys": "",
	} {
		if got := table(t).InMemory(path); got != want {
			t.Errorf("%s is in %q, not %q", path, got, want)
		}
	}
}
