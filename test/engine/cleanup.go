package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// cleanup removes the engine and everything it started. It does not ask the engine to do so: the engine may have
// ended, or wait for a plugin that has ended.
func (e *Engine) cleanup(t testing.TB) {
	if t.Failed() {
		t.Logf("the end of the engine's log:\n%s", e.logTail(100))
	}
	if e.Running() {
		e.Kill9(t)
	}
	errs := []error{e.killProcesses(), e.removeCgroups(), unmountUnder(e.Dir), e.removeBridge()}
	assert.NoErrorf(t, errors.Join(errs...), "clean up after the engine")
	assert.NoErrorf(t, os.RemoveAll(e.Dir), "clean up after the engine")
}

// PowerOff ends the engine and its containers at once, as a loss of power does. Its mounts disappear, and so does
// its exec root, which corresponds to /run. Up is the next boot.
func (e *Engine) PowerOff(t testing.TB) {
	t.Helper()
	e.Kill9(t)
	require.NoError(t, errors.Join(e.killProcesses(), e.removeCgroups(), unmountUnder(e.Dir)))
	for _, name := range []string{"exec", "docker.pid"} {
		require.NoError(t, os.RemoveAll(filepath.Join(e.Dir, name)))
	}
}

// killProcesses kills the containers, the shims and containerd, and waits for their end.
func (e *Engine) killProcesses() error {
	return await(30*time.Second, func() error {
		pids := append(e.helpers(), e.contained()...)
		if len(pids) == 0 {
			return nil
		}
		return kill(pids...)
	})
}

// kill kills processes that are not children of this process, and waits until they have ended and were reaped
// (see Main).
func kill(pids ...int) error {
	return await(30*time.Second, func() error {
		pids = slices.DeleteFunc(pids, func(pid int) bool {
			return errors.Is(unix.Kill(pid, unix.SIGKILL), unix.ESRCH)
		})
		if len(pids) > 0 {
			return fmt.Errorf("processes %v do not end", pids)
		}
		return nil
	})
}

// helpers returns the processes that have this engine's folder in their arguments: containerd and shims.
func (e *Engine) helpers() []int {
	var pids []int
	for _, pid := range numbers("/proc") {
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && pid != os.Getpid() && bytes.Contains(args, []byte(e.Dir+"/exec/")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// containerd returns the engine's containerd, which is the helper with that name.
func (e *Engine) containerd() []int {
	return slices.DeleteFunc(e.helpers(), func(pid int) bool {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return err != nil || string(name) != "containerd\n"
	})
}

// contained returns the processes in this engine's containers.
func (e *Engine) contained() []int {
	var pids []int
	for _, dir := range e.cgroupDirs() {
		list, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue // removed meanwhile, or a threaded group of cgroup v2
		}
		for field := range strings.FieldsSeq(string(list)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

func numbers(dir string) []int {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var all []int
	for _, entry := range entries {
		if n, err := strconv.Atoi(entry.Name()); err == nil {
			all = append(all, n)
		}
	}
	return all
}

// cgroup returns the parent of the cgroups of all containers of this engine.
func (e *Engine) cgroup() string {
	return "drover-test-" + e.id
}

// cgroupDirs lists this engine's cgroups, in the one hierarchy of v2 or in each of v1, parents first.
func (e *Engine) cgroupDirs() []string {
	roots := []string{filepath.Join("/sys/fs/cgroup", e.cgroup())}
	each, err := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", e.cgroup()))
	if err == nil {
		roots = append(roots, each...)
	}
	var dirs []string
	for _, root := range roots {
		_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return nil // the group was removed meanwhile
		})
	}
	return dirs
}

func (e *Engine) removeCgroups() error {
	return await(10*time.Second, func() error {
		dirs := e.cgroupDirs()
		for _, dir := range slices.Backward(dirs) {
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err // busy until the kernel has removed its last process
			}
		}
		return nil
	})
}

// unmountUnder detaches all mounts at and below dir, the newest first.
func unmountUnder(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m.Mountpoint, err))
		}
	}
	return errors.Join(errs...)
}

// await calls f until it succeeds. After the timeout it returns the last error of f.
func await(timeout time.Duration, f func() error) error {
	deadline := time.After(timeout)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-deadline:
			return err
		case <-tick.C:
		}
	}
}
