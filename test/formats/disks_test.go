package formats

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/engine"
)

// No test here needs an engine. The namespaces are needed: the fixture has fixed paths and its own boot ID.
func TestMain(m *testing.M) { engine.Main(m) }

// The records contain paths, so the disks must be mounted where they were when the fixture was made: at folders that
// every system has.
const (
	fixture = "testdata/418222e.tar.gz"
	mounts  = "/mnt"
	root    = mounts + "/root"
)

// disk is a filesystem in an image file, and the place where it is mounted.
type disk struct {
	name, fstype string
	size         int64
}

func (d disk) mountpoint() string {
	if d.name == "ext4" {
		return mounts
	}
	return filepath.Join(mounts, d.name)
}

// disks are in the order in which they are mounted.
var disks = []disk{{"ext4", "ext4", 1 << 30}, {"xfs", "xfs", 4 << 30}, {"btrfs", "btrfs", 4 << 30}}

// mountDisks mounts the disks in the folder images until the test ends.
func mountDisks(t *testing.T, images string) {
	t.Helper()
	for _, d := range disks {
		source := scratch.MountImage(t, d.fstype, filepath.Join(images, d.name))
		if err := os.MkdirAll(d.mountpoint(), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(source, d.mountpoint(), "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(d.mountpoint(), 0); err != nil {
				t.Errorf("unmount %s: %v", d.mountpoint(), err)
			}
		})
	}
}

// openDisks mounts a copy of the disks of the fixture.
func openDisks(t *testing.T) {
	t.Helper()
	images := t.TempDir()
	scratch.Run(t, "tar", "--extract", "--gzip", "--sparse", "--file", fixture, "--directory", images)
	mountDisks(t, images)
}

// setBootID replaces the ID of the boot: uses of volumes count only on the boot on which they were recorded.
func setBootID(t *testing.T, id string) {
	t.Helper()
	const kernel = "/proc/sys/kernel/random/boot_id"
	file := filepath.Join(t.TempDir(), "boot_id")
	if err := os.WriteFile(file, []byte(id+"\n"), 0o444); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(file, kernel, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(kernel, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}
