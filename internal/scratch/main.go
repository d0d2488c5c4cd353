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

	"github.com/droverhq/drover/internal/linux/mount"
)

const namespaceVariable = "DROVER_SCRATCH_NAMESPACE"

// Main runs a package's tests in a separate mount namespace and returns the exit status, for TestMain. Tests of several
// packages run at the same time. A container or engine that one of them starts copies all mounts that it sees. These
// copies keep filesystems in use after the other tests have unmounted them. In separate namespaces, no package's tests
// see the mounts of another one.
func Main(m *testing.M) int {
	if path := os.Getenv(serverVariable); path != "" {
		fmt.Fprintln(os.Stderr, runWithoutSync(path))
		return 1
	}
	var err error
	if os.Getenv(namespaceVariable) != "" {
		if err = unmountOthers(); err == nil {
			return m.Run()
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
