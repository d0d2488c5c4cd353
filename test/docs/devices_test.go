package docs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

const byID = "/dev/disk/by-id"

// setupDevices has three disks in the host, nvme-A to nvme-C.
func setupDevices(t *testing.T, _ *world) {
	for _, name := range []string{"nvme-A", "nvme-B", "nvme-C"} {
		plug(t, name, scratch.Disk(t, 2<<30))
	}
}

// setupDevicesMoved adds nvme-D, a disk with a pool of another host.
func setupDevicesMoved(t *testing.T, _ *world) {
	device, at := scratch.Disk(t, 2<<30), filepath.Join(t.TempDir(), "pool")
	p, err := loop.New(&run.System{}).Open(t.Context(), backends.Config{Name: "theirs", Path: at, Mount: at, Devices: []string{device}, Make: true})
	require.NoError(t, err)
	require.NoError(t, p.Close())
	plug(t, "nvme-D", device)
}

// plug gives a device a name.
func plug(t *testing.T, name, device string) {
	t.Helper()
	if os.Mkdir(filepath.Dir(byID), 0o755) == nil {
		t.Cleanup(func() { _ = os.Remove(filepath.Dir(byID)) })
	}
	if _, err := os.Lstat(byID); err != nil { // the host's own disks must not be used for this
		cover(t, "tmpfs", filepath.Dir(byID), "tmpfs", 0, "mode=0755")
	}
	require.NoError(t, os.MkdirAll(byID, 0o755))
	require.NoError(t, os.Symlink(device, filepath.Join(byID, name)))
}
