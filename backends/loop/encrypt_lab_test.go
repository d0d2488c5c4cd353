//go:build lab

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

// TestSuiteEncrypted runs the suite with every dataset encrypted. All pools of a case have the same key.
func TestSuiteEncrypted(t *testing.T) {
	keys := backendtest.NewKeys()
	for _, fstype := range []string{"xfs", "btrfs"} {
		backendtest.Run(t, fstype, func(t *testing.T) (backends.Kind, backends.Config) {
			disk := scratch.Mount(t, fstype, suiteDisk)
			return loop.New(&run.System{}), backends.Config{Name: "test", Path: filepath.Join(disk, "pool"), Keys: keys}
		})
	}
}
