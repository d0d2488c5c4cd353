//go:build !lab

package zfs_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/zfs"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/require"
)

// variant is the ZFS that these tests run on.
const variant = "fuse"

func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }

// onFuse makes the zpools of a test.
var onFuse scratch.ZFS

// zpool makes a zpool of a size in bytes for a test, and returns the directory on which its filesystem is mounted.
func zpool(t testing.TB, size int64) (name, mountpoint string) {
	t.Helper()
	return onFuse.Pool(t, size)
}

// lacks lists the operations of treetest that zfs-fuse does not support with any backend. It keeps times in whole
// seconds, 31 bits of an ID, no ACLs, and only attributes with text, and it reads holes byte by byte.
func lacks() []string {
	return []string{treetest.LargeIDs, treetest.Sparse, treetest.Times, treetest.ACLs, treetest.Attributes}
}

// slow lists the cases that take long on this ZFS, because it counts written bytes only after 30 s and chooses the
// sizes of files itself. It also lists cases that other cases and tests of this package cover faster.
func slow() []string {
	return []string{
		"UsedGrows", "SizeExcludesSnapshots", "ConstantSnapshots", "ShrinkBelowUsageIsRefused", "GrowMounted",
		"StreamsAreReproducible", "CopyBecomesHome", "CopyHasNoHead", "DamagedStreamIsRefused",
	}
}

// TestDevicesWantOpenZFS: the error names OpenZFS, and the device is not changed.
func TestDevicesWantOpenZFS(t *testing.T) {
	zpool(t, 128<<20) // starts the server
	device := scratch.Disk(t, diskSize)
	before, err := os.ReadFile(device)
	require.NoError(t, err)
	at := filepath.Join(t.TempDir(), "pool")
	cfg := backends.Config{Name: "tank", Path: at, Mount: at, Devices: []string{device}, Make: true}
	_, err = zfs.New(&run.System{}, clock.System{}).Open(t.Context(), cfg)
	if !errors.Is(err, dataset.ErrUnsupported) ||
		!strings.Contains(err.Error(),
			"pools of devices need OpenZFS, and the zpool(8) of this host belongs to zfs-fuse") {
		t.Errorf("refused with %v", err)
	}
	if after, err := os.ReadFile(device); err != nil || !bytes.Equal(before, after) {
		t.Errorf("something was written to it: %v", err)
	}
}
