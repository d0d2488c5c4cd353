package loop_test

import (
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
)

// The suite wants 4 GiB below a pool.
const suiteDisk = 5 << 30

func TestSuite(t *testing.T) {
	for _, fstype := range []string{"xfs", "btrfs"} {
		backendtest.Run(t, fstype, func(t *testing.T) (backends.Kind, backends.Config) {
			disk := scratch.Mount(t, fstype, suiteDisk)
			return loop.New(&run.System{}), backends.Config{Name: "test", Path: filepath.Join(disk, "pool")}
		})
	}
}

func TestPowerCut(t *testing.T) {
	for _, fstype := range []string{"xfs", "btrfs"} {
		backendtest.PowerCut(t, loop.New(&run.System{}), fstype)
	}
}
