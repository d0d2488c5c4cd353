package zfs_test

import (
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/backendtest/crashing"
	"github.com/droverhq/drover/backends/zfs"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/fault"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/require"
)

// The suite needs 4 GiB below a pool.
const suiteDisk = 5 << 30

func TestSuite(t *testing.T) {
	backendtest.Run(t, variant, func(t *testing.T) (backends.Kind, backends.Config) {
		if slices.Contains(slow(), path.Base(t.Name())) {
			long.Only(t)
		}
		_, mnt := zpool(t, suiteDisk)
		return zfs.New(&run.System{}, clock.System{}), backends.Config{Name: "test", Path: filepath.Join(mnt, "pool")}
	}, lacks()...)
}

// I3: an operation of which any system call fails damages nothing in the pool.
func TestI3FailingCalls(t *testing.T) {
	crashing.FailingCallsEvery(t, variant, 2, func(t *testing.T) (backends.Kind, backends.Config) {
		if op := path.Base(t.Name()); op != "restore" && op != "supersede" {
			long.Only(t)
		}
		_, mnt := zpool(t, suiteDisk)
		return zfs.New(fault.Runner{Next: &run.System{}},
			clock.System{}), backends.Config{Name: "test", Path: filepath.Join(mnt, "pool")}
	})
}

// lines returns the lines that a zfs command prints.
func lines(t *testing.T, args ...string) []string {
	t.Helper()
	res, err := (&run.System{}).Run(t.Context(), run.Command{Name: "zfs", Args: args, Timeout: time.Minute})
	require.NoError(t, err)
	return strings.Split(strings.TrimSuffix(string(res.Stdout), "\n"), "\n")
}
