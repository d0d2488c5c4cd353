package scratch

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/facts"
	"github.com/droverhq/drover/internal/linux/mount"
)

// Main runs a package's tests in separate mount and process namespaces and returns the exit status, for TestMain. Tests
// of several packages run at the same time. A container or engine that one of them starts copies all mounts that it
// sees. These copies keep filesystems in use after the other tests have unmounted them. In separate namespaces, no
// package's tests see the mounts of another one, and a search for users examines only the processes of these tests.
func Main(m *testing.M) int { return inNamespaces(m.Run) }

// MainInMemory is Main with the temporary files of the tests in memory, in a tmpfs of up to 8 GiB. Packages that mostly
// write images then take little more than half of the time. A host with less than 16 GiB of free memory keeps the files
// on the disk. Tests that measure writes, or that link files of the test program, need Main.
func MainInMemory(m *testing.M) int {
	return inNamespaces(func() int {
		unmount, err := tempInMemory()
		if err != nil {
			fmt.Fprintln(os.Stderr, "temporary files of tests in memory:", err)
			return 1
		}
		defer unmount()
		return m.Run()
	})
}

// tempInMemory mounts a tmpfs and makes it the directory of temporary files. The mount ends with the namespace.
func tempInMemory() (unmount func(), err error) {
	const size, enough = 8 << 30, 16 << 30
	var host dataset.Facts
	if err := (facts.Host{FS: os.DirFS("/")}).ReadDynamic(&host); err != nil || host.MemoryFree < enough {
		return func() {}, err
	}
	dir, err := os.MkdirTemp("", "drover-tmpfs-")
	if err != nil {
		return nil, err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("mode=1777,size=%d", size)); err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	before := os.Getenv("TMPDIR")
	if err := os.Setenv("TMPDIR", dir); err != nil {
		return nil, errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH), os.Remove(dir))
	}
	return func() {
		_ = os.Setenv("TMPDIR", before)
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		_ = os.Remove(dir)
	}, nil
}

// inNamespaces runs the tests of Main.
func inNamespaces(tests func() int) int {
	if path := os.Getenv(serverVariable); path != "" {
		fmt.Fprintln(os.Stderr, runWithoutSync(path))
		return 1
	}
	return Isolate(unmountOthers, tests)
}

// unmountOthers unmounts the mounts of loop devices that this mount namespace has inherited. It keeps those that
// contain the tests or their working directory.
func unmountOthers() error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	workDir, err := os.Getwd()
	if err != nil {
		return err
	}
	for i := len(table) - 1; i >= 0; i-- {
		point := strings.TrimSuffix(table[i].Mountpoint, "/") + "/"
		needed := strings.HasPrefix(workDir+"/", point) || strings.HasPrefix(os.TempDir()+"/", point)
		if needed || !strings.HasPrefix(table[i].Source, "/dev/loop") {
			continue
		}
		// EINVAL means that it was removed with the mount above it.
		err := unix.Unmount(table[i].Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("release %s: %w", table[i].Mountpoint, err)
		}
	}
	return nil
}
