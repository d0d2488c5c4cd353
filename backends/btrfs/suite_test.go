package btrfs_test

import (
	"path"
	"path/filepath"
	"slices"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/backendtest/crashing"
	"github.com/droverhq/drover/backends/btrfs"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/scratch"
)

// disk returns a btrfs of a size with the given mode of quotas.
func disk(t testing.TB, quota string, size int64) string {
	t.Helper()
	at := scratch.Mount(t, "btrfs", size)
	if quota != "none" {
		scratch.Quota(t, at, quota)
	}
	return at
}

func TestSuite(t *testing.T) {
	for _, quota := range []string{"full", "simple", "none"} {
		backendtest.Run(t, quota, func(t *testing.T) (backends.Kind, backends.Config) {
			if quota != "full" && slices.Contains(uncounted(), path.Base(t.Name())) {
				long.Only(t)
			}
			return btrfs.New(), backends.Config{Name: "test", Path: filepath.Join(disk(t, quota, 5<<30), "pool")}
		})
	}
}

// uncounted lists the cases that do not depend on the mode of the quotas. They run with one mode only.
func uncounted() []string {
	return []string{
		"FilePropertiesAreKept", "InUseIsNotDeleted", "InUseInAnotherNamespace", "InUseWithoutMount",
		"SpeedIsLimited", "SnapshotIsImmutable", "SnapshotWhileWritten", "CloneWhileWritten",
		"ConstantSnapshots", "StreamsAreReproducible", "InterruptedStreamResumes", "DamagedStreamIsRefused",
		"DamagedRecordIsListed",
		"MovingDatasetStaysVisible", "SymlinksInThePoolAreNotFollowed", "RetryReplacesRecord", "RootIsEmptyAndOwned",
	}
}

// I3: an operation of which any system call fails damages nothing in the pool.
func TestI3FailingCalls(t *testing.T) {
	crashing.FailingCalls(t, "full", func(t *testing.T) (backends.Kind, backends.Config) {
		return btrfs.New(), backends.Config{Name: "test", Path: filepath.Join(disk(t, "full", 5<<30), "pool")}
	})
}

func TestPowerCut(t *testing.T) {
	crashing.PowerCut(t, btrfs.New(), "btrfs", func(t *testing.T, disk string) { scratch.Quota(t, disk, "full") })
}
