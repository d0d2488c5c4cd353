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
)

// variant is the ZFS that these tests run on.
const variant = "fuse"

func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }

// onFuse has the zpools of a test.
var onFuse scratch.ZFS

// zpool makes a pool of zfs of that many bytes, with a filesystem mounted on the directory
// that is returned, for the length of a test.
func zpool(t testing.TB, size int64) (name, mountpoint string) {
	t.Helper()
	return onFuse.Pool(t, size)
}

// lacks are operations that zfs-fuse does not have, under no backend: it keeps whole seconds,
// 31 bits of an ID, no ACLs, of attributes what is text, and reads holes byte by byte.
func lacks() []string {
	return []string{treetest.LargeIDs, treetest.Sparse, treetest.Times, treetest.ACLs, treetest.Attributes}
}

// slow says which cases take long on this ZFS: it counts what was written after 30 s, and how large
// files are is its own affair. Or which do what others, and tests of this package, do in less.
func slow() []string {
	return []string{
		"UsedGrows", "WhatASizeCounts", "ConstantSnapshots", "ShrinkIsRefusedBelowWhatIsThere", "GrowMounted",
		"StreamsAreAlwaysTheSame", "CopyBecomesHome", "WhatACopyIsNot", "DamagedStreamIsRefused",
	}
}

// TestDevicesWantOpenZFS: it is said, and a device of which nothing could be made is as it was.
func TestDevicesWantOpenZFS(t *testing.T) {
	zpool(t, 128<<20) // for its server
	device := scratch.Disk(t, diskSize)
	before, err := os.ReadFile(device)
	if err != nil {
		t.Fatal(err)
	}
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
