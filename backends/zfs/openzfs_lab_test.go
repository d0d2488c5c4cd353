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

// pools counts the zpools that were made, because a test can have several at once.
var pools atomic.Int32

// zpool makes a zpool of a size in bytes for a test, and returns the directory on which its filesystem is mounted.
func zpool(t testing.TB, size int64) (name, mountpoint string) {
	t.Helper()
	name, mountpoint, _ = zpoolOn(t, size)
	return name, mountpoint
}

// zpoolOn also returns the image that contains the zpool.
func zpoolOn(t testing.TB, size int64) (name, mountpoint, image string) {
	t.Helper()
	name = fmt.Sprint("tank", pools.Add(1))
	image, mountpoint = scratch.Image(t, "", size), filepath.Join(t.TempDir(), "mnt")
	scratch.Run(t, "zpool", "create", "-O", "atime=off", "-m", mountpoint, name, image)
	t.Cleanup(func() { scratch.Run(t, "zpool", "destroy", name) }) // fails if a filesystem is still mounted
	return name, mountpoint, image
}

// TestPowerCut imports a copy of the zpool in the state that its disk has at that moment.
func TestPowerCut(t *testing.T) {
	backendtest.PowerCut(t, zfs.New(&run.System{}, clock.System{}), variant, func(t *testing.T) backendtest.Disk {
		name, mnt, image := zpoolOn(t, suiteDisk)
		return backendtest.Disk{Path: mnt, Copy: func() string {
			dir := t.TempDir()
			scratch.Run(t, "cp", "--sparse=always", image, dir)
			// Two zpools with one GUID cannot be imported at the same time. The copy keeps its GUID.
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

// lacks lists the operations that this ZFS does not support.
func lacks() []string { return nil }

// slow lists the cases that take long on this ZFS.
func slow() []string { return nil }
