package loop_test

import (
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/backendtest/powercut"
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

// The same in an image on a host without reflinks.
func TestSuiteInImage(t *testing.T) {
	backendtest.Run(t, "image", func(t *testing.T) (backends.Kind, backends.Config) {
		host := scratch.Mount(t, "ext4", suiteDisk)
		return loop.New(&run.System{}), backends.Config{
			Name: "test", Path: filepath.Join(host, "pool.img"), Image: suiteDisk * 8 / 10, Mount: filepath.Join(host, "mnt"),
		}
	})
}

func TestPowerCut(t *testing.T) {
	for _, fstype := range []string{"xfs", "btrfs"} {
		powercut.Run(t, loop.New(&run.System{}), fstype)
	}
}
