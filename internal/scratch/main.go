package scratch

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/facts"
	"github.com/droverhq/drover/internal/linux/mount"
)

const namespaceVariable = "DROVER_SCRATCH_NAMESPACE"

// Main runs a package's tests in a separate mount namespace and returns the exit status, for TestMain. Tests of several
// packages run at the same time. A container or engine that one of them starts copies all mounts that it sees. These
// copies keep filesystems in use after the other tests have unmounted them. In separate namespaces, no package's tests
// see the mounts of another one.
func Main(m *testing.M) int { return inNamespace(m.Run) }

// MainInMemory is Main with the temporary files of the tests in memory, in a tmpfs of up to 8 GiB. Packages that mostly
// write images then take little more than half of the time. A host with less than 16 GiB of free memory keeps the files
// on the disk. Tests that measure writes, or that link files of the test program, need Main.
func MainInMemory(m *testing.M) int {
	return inNamespace(func() int {
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

// inNamespace runs tests in a new mount namespace.
func inNamespace(tests func() int) int {
	if path := os.Getenv(serverVariable); path != "" {
		fmt.Fprintln(os.Stderr, runWithoutSync(path))
		return 1
	}
	var err error
	if os.Getenv(namespaceVariable) != "" {
		if err = unmountOthers(); err == nil {
			return tests()
		}
	} else {
		var status int
		if status, err = reexec(); err == nil {
			return status
		}
	}
	fmt.Fprintln(os.Stderr, "tests in a separate mount namespace (they need root):", err)
	return 1
}

// reexec starts this program again in a new mount namespace.
func reexec() (int, error) {
	// The child dies with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env:   append(os.Environ(), namespaceVariable+"=1"),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		// Go makes all mounts private in it (golang.org/issue/19661).
		Sys: &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL},
	})
	if err != nil {
		return 0, err
	}
	state, err := p.Wait()
	if err != nil {
		return 0, err
	}
	if status := state.ExitCode(); status >= 0 {
		return status, nil
	}
	return 0, fmt.Errorf("they ended with %s", state)
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
