//go:build lab

package zfs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/zfs"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
)

// variant is the ZFS that these tests run on: the lab's kernel has OpenZFS.
const variant = "openzfs"

func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }

// pools counts those that were made: a test can have several at once.
var pools atomic.Int32

// zpool makes a pool of zfs of that many bytes, with a filesystem mounted on the directory
// that is returned, for the length of a test.
func zpool(t testing.TB, size int64) (name, mountpoint string) {
	t.Helper()
	name, mountpoint, _ = zpoolOn(t, size)
	return name, mountpoint
}

// zpoolOn also returns the image that it lies on.
func zpoolOn(t testing.TB, size int64) (name, mountpoint, image string) {
	t.Helper()
	name = fmt.Sprint("tank", pools.Add(1))
	image, mountpoint = scratch.Image(t, "", size), filepath.Join(t.TempDir(), "mnt")
	scratch.Run(t, "zpool", "create", "-O", "atime=off", "-m", mountpoint, name, image)
	t.Cleanup(func() { scratch.Run(t, "zpool", "destroy", name) }) // what is mounted still fails it
	return name, mountpoint, image
}

// TestPowerCut imports a copy of the zpool as it is on its disk at that moment.
func TestPowerCut(t *testing.T) {
	backendtest.PowerCut(t, zfs.New(&run.System{}, clock.System{}), variant, func(t *testing.T) backendtest.Disk {
		name, mnt, image := zpoolOn(t, suiteDisk)
		return backendtest.Disk{Path: mnt, Copy: func() string {
			dir := t.TempDir()
			scratch.Run(t, "cp", "--sparse=always", image, dir)
			// Two of one GUID cannot be there at once; the copy's stays what it is.
			scratch.Run(t, "zpool", "reguid", name)
			copied, mountpoint := fmt.Sprint("copy", pools.Add(1)), filepath.Join(dir, "mnt")
			scratch.Run(t, "zpool", "import", "-N", "-d", dir, "-o", "cachefile=none", name, copied)
			t.Cleanup(func() { scratch.Run(t, "zpool", "destroy", copied) })
			scratch.Run(t, "zfs", "set", "mountpoint="+mountpoint, copied)
			scratch.Run(t, "zfs", "mount", copied)
			return mountpoint
		}}
	})
}

// lacks are operations that this ZFS does not have.
func lacks() []string { return nil }

// slow says which cases take long on this ZFS.
func slow() []string { return nil }
