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
)

// cleanup removes the engine and everything it started. It does not ask the engine to do it: that may
// be dead, or wait for a plugin that is gone.
func (e *Engine) cleanup(t testing.TB) {
	if t.Failed() {
		t.Logf("the end of the engine's log:\n%s", e.logTail(100))
	}
	if e.Running() {
		e.Kill9(t)
	}
	errs := []error{e.killProcesses(), e.removeCgroups(), unmountUnder(e.Dir), e.removeBridge()}
	if err := errors.Join(errs...); err != nil {
		t.Errorf("clean up after the engine: %v", err)
	}
	if err := os.RemoveAll(e.Dir); err != nil {
		t.Errorf("clean up after the engine: %v", err)
	}
}

// PowerOff ends the engine as losing power does: with its containers, at once. What it had mounted is
// gone, and what it kept below /run, which is here its exec root. Up is the next boot.
func (e *Engine) PowerOff(t testing.TB) {
	t.Helper()
	e.Kill9(t)
	if err := errors.Join(e.killProcesses(), e.removeCgroups(), unmountUnder(e.Dir)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"exec", "docker.pid"} {
		if err := os.RemoveAll(filepath.Join(e.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// killProcesses kills containers, shims and containerd, and waits until they are gone.
func (e *Engine) killProcesses() error {
	return await(30*time.Second, func() error {
		pids := append(e.helpers(), e.contained()...)
		if len(pids) == 0 {
			return nil
		}
		return kill(pids...)
	})
}

// kill kills processes that are not our children and waits until they are gone and buried (see Main).
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

// helpers are the processes that have this engine's folder in their arguments: containerd and shims.
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

// containerd is the engine's containerd: the one helper that is named so.
func (e *Engine) containerd() []int {
	return slices.DeleteFunc(e.helpers(), func(pid int) bool {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return err != nil || string(name) != "containerd\n"
	})
}

// contained are the processes in this engine's containers.
func (e *Engine) contained() []int {
	var pids []int
	for _, dir := range e.cgroupDirs() {
		list, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue // gone meanwhile, or a threaded group of cgroup v2
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

// cgroup is the parent of the cgroups of all containers of this engine.
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
			return nil // a group that went away meanwhile is no error
		})
	}
	return dirs
}

func (e *Engine) removeCgroups() error {
	return await(10*time.Second, func() error {
		dirs := e.cgroupDirs()
		for _, dir := range slices.Backward(dirs) {
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err // busy while the kernel buries its last process
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

// await calls f until it succeeds, and returns its last error when that takes too long.
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
