package verification_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/cmd/drover/internal/verification"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// AreQuotasConsistent sees quotas that the kernel no longer counts. It asks for no quotas on other filesystems, nor if they are
// off.
func TestQuotasHold(t *testing.T) {
	disk := scratch.Mount(t, "btrfs", scratch.Btrfs)
	for _, path := range []string{disk, t.TempDir(), disk + "-x"} {
		if verification.AreQuotasConsistent(path) {
			t.Errorf("%s: got quotas that hold, want none", path)
		}
	}
	scratch.Quota(t, disk, "full")
	scratch.Run(t, "btrfs", "subvolume", "create", filepath.Join(disk, "a"))
	require.NoError(t, os.WriteFile(filepath.Join(disk, "a", "file"), make([]byte, 1<<20), 0o600))
	scratch.Run(t, "btrfs", "subvolume", "snapshot", filepath.Join(disk, "a"), filepath.Join(disk, "b"))
	if !verification.AreQuotasConsistent(disk) {
		t.Error("new quotas: got none that hold")
	}
	scratch.Run(t, "btrfs", "qgroup", "create", "1/7", disk)
	scratch.Run(t, "btrfs", "qgroup", "assign", "--no-rescan", "0/256", "1/7", disk)
	if verification.AreQuotasConsistent(disk) {
		t.Error("got quotas that hold, but the kernel counts no longer")
	}
}
