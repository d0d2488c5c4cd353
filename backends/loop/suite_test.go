package loop_test

import (
	"path"
	"path/filepath"
	"slices"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/backendtest/crashing"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/internal/fault"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
)

// The suite needs 4 GiB for a pool.
const suiteDisk = 5 << 30

func TestSuite(t *testing.T) {
	for _, fstype := range []string{"xfs", "btrfs"} {
		backendtest.Run(t, fstype, func(t *testing.T) (backends.Kind, backends.Config) {
			if fstype != "xfs" && slices.Contains(ofMounts(), path.Base(t.Name())) {
				long.Only(t)
			}
			disk := scratch.Mount(t, fstype, suiteDisk)
			return loop.New(&run.System{}), backends.Config{Name: "test", Path: filepath.Join(disk, "pool")}
		})
	}
}

// TestSuiteInImage runs the suite in an image, as on a host without reflinks.
func TestSuiteInImage(t *testing.T) {
	backendtest.Run(t, "image", func(t *testing.T) (backends.Kind, backends.Config) {
		if name := path.Base(t.Name()); slices.Contains(asWithout(), name) || slices.Contains(ofMounts(), name) {
			long.Only(t)
		}
		host := scratch.Mount(t, "ext4", suiteDisk)
		return loop.New(&run.System{}), backends.Config{
			Name: "test", Path: filepath.Join(host, "pool.img"), Image: suiteDisk * 8 / 10,
			Mount: filepath.Join(host, "mnt"),
		}
	})
}

// ofMounts lists the cases about mounts of a volume's own filesystem, which is the same wherever its image is.
// TestSuite/xfs runs them.
func ofMounts() []string {
	return []string{
		"FilePropertiesAreKept", "InUseIsNotDeleted", "InUseInAnotherNamespace", "InUseWithoutMount",
		"SpeedIsLimited", "ReadOnlyMount", "AttachTwice", "FreezeBlocksWriters",
	}
}

// asWithout lists the cases that do not depend on where the pool is. The image has an XFS, and TestSuite/xfs shows
// the same.
func asWithout() []string {
	return []string{
		"SnapshotWhileWritten", "CloneWhileWritten", "ClonesAreIndependent", "CancelledCallIsAtomic",
		"InterruptedRestoreKeepsLaterWrites",
		"StreamsAreReproducible", "CopyIsUpdated", "InterruptedStreamResumes", "DamagedStreamIsRefused",
		"CopyHasNoHead",
		"SupersededHeadIsKept", "MovingDatasetStaysVisible", "RootIsEmptyAndOwned", "RetryReplacesRecord",
	}
}

// I3: an operation in which any system call fails damages nothing in the pool.
func TestI3FailingCalls(t *testing.T) {
	for _, fstype := range []string{"xfs", "btrfs"} {
		crashing.FailingCalls(t, fstype, func(t *testing.T) (backends.Kind, backends.Config) {
			if fstype != "xfs" && path.Base(t.Name()) != "restore" {
				long.Only(t)
			}
			return loop.New(fault.Runner{Next: &run.System{}}), backends.Config{
				Name: "test",
				Path: filepath.Join(scratch.Mount(t, fstype, suiteDisk), "pool"),
			}
		})
	}
}

func TestPowerCut(t *testing.T) {
	for _, fstype := range []string{"xfs", "btrfs"} {
		crashing.PowerCut(t, loop.New(&run.System{}), fstype)
	}
}
