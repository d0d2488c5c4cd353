package btrfs_test

import (
	"path"
	"path/filepath"
	"slices"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/backendtest/failing"
	"github.com/droverhq/drover/backends/backendtest/powercut"
	"github.com/droverhq/drover/backends/btrfs"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/scratch"
)

// disk returns a btrfs of a size with quotas of a mode.
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

// uncounted are cases of what does not hang on how btrfs counts, if it does: with one kind of
// quotas they show it.
func uncounted() []string {
	return []string{
		"KeepsEverything", "InUseIsNotDeleted", "InUseInAnotherNamespace", "InUseWithoutMount",
		"SpeedIsLimited", "SnapshotIsImmutable", "SnapshotWhileWritten", "CloneWhileWritten",
		"ConstantSnapshots", "StreamsAreAlwaysTheSame", "CutStreamGoesOn", "DamagedStreamIsRefused",
		"DamagedRecordIsListed",
		"SeenWhileItMoves", "SymlinksInThePoolAreNotFollowed", "RetryRenewsTheRecord", "RootIsEmptyAndOwned",
	}
}

// I3: an operation of which any system call fails damages nothing in the pool.
func TestI3FailingCalls(t *testing.T) {
	failing.Run(t, "full", func(t *testing.T) (backends.Kind, backends.Config) {
		return btrfs.New(), backends.Config{Name: "test", Path: filepath.Join(disk(t, "full", 5<<30), "pool")}
	})
}

func TestPowerCut(t *testing.T) {
	powercut.Run(t, btrfs.New(), "btrfs", func(t *testing.T, disk string) { scratch.Quota(t, disk, "full") })
}

// BenchmarkGrow: snapshots and clones of little and of much.
func BenchmarkGrow(b *testing.B) {
	backendtest.Metrics(b, backendtest.Grow(b, func() (backends.Kind, backends.Config) {
		return btrfs.New(), backends.Config{Name: "test", Path: filepath.Join(disk(b, "full", 5<<30), "pool")}
	}))
}

// BenchmarkPath: a volume against a subvolume that was made by hand beside the pool.
func BenchmarkPath(b *testing.B) {
	var at string
	backendtest.Path(b, b, func() (backends.Kind, backends.Config) {
		at = disk(b, "full", 5<<30)
		return btrfs.New(), backends.Config{Name: "test", Path: filepath.Join(at, "pool")}
	}, func(backends.Config) string {
		scratch.Run(b, "btrfs", "subvolume", "create", filepath.Join(at, "beside"))
		return filepath.Join(at, "beside")
	}, func() {})
}
