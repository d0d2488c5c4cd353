//go:build !lab

package zfs_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/mount"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// variant is the ZFS that these tests run on.
const variant = "fuse"

// The tests have a zfs-fuse of their own: in their mount namespace its fixed places (socket,
// lock, list of pools) are their own too.
func TestMain(m *testing.M) {
	if path := os.Getenv(asServer); path != "" {
		fmt.Fprintln(os.Stderr, unsynced(path))
		os.Exit(1)
	}
	os.Exit(scratch.Main(m))
}

const asServer = "DROVER_TEST_ZFS_FUSE"

// unsynced becomes zfs-fuse without its sync(2). It calls that at each unmount, with a lock
// held for which all its filesystems wait then: for every disk of this host.
func unsynced(path string) error {
	runtime.LockOSThread()
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SYNC, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO}, // 0: it is done
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0); err != nil {
		return fmt.Errorf("take sync(2) away: %w", err)
	}
	return unix.Exec(path, []string{path, "--no-daemon", "--no-kstat-mount", "--enable-xattr"}, os.Environ())
}

// stop ends the server that a test has, and pools counts its zpools: a test can have several.
var (
	stop  atomic.Pointer[func()]
	pools atomic.Int32
)

// serve starts zfs-fuse, if a test has none yet: one for each, as what one has unmounted another
// may still have. It ends before the first of its zpools goes.
func serve(t testing.TB) {
	t.Helper()
	if end := stop.Load(); end != nil {
		t.Cleanup(*end)
		return
	}
	path, err := run.LookPath("zfs-fuse")
	if err != nil {
		t.Fatalf("%v (apt-get install zfs-fuse)", err)
	}
	for _, dir := range []string{"/run/zfs", "/run/lock/zfs", "/var/lib/zfs"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("none", dir, "tmpfs", 0, "mode=755"); err != nil {
			t.Fatalf("a private %s: %v", dir, err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Errorf("unmount %s: %v", dir, err)
			}
		})
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asServer+"="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		stop.Store(nil)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		table, err := mount.Table()
		if err != nil {
			t.Error(err)
		}
		for _, m := range table {
			if m.FSType == "fuse.zfs" {
				_ = unix.Unmount(m.Mountpoint, unix.MNT_DETACH)
			}
		}
	})
	stop.Store(&end)
	t.Cleanup(end)
	for range 400 {
		if _, err := os.Stat("/run/zfs/zfs_socket"); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("zfs-fuse made no socket in 20 s")
}

// memory returns a directory in memory: zfs-fuse waits for its disk after each command.
func memory(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "mode=700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// zpool makes a pool of zfs of that many bytes, with a filesystem mounted on the directory
// that is returned, for the length of a test.
func zpool(t testing.TB, size int64) (name, mountpoint string) {
	t.Helper()
	image, mountpoint := filepath.Join(memory(t), "image"), filepath.Join(t.TempDir(), "mnt")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
		t.Fatal(err)
	}
	name = fmt.Sprint("tank", pools.Add(1))
	serve(t)
	scratch.Run(t, "zpool", "create", "-O", "atime=off", "-m", mountpoint, name, image)
	return name, mountpoint
}

// lacks are operations that zfs-fuse does not have, under no backend: it keeps whole seconds,
// 31 bits of an ID, no ACLs, of attributes what is text, and reads holes byte by byte.
func lacks() []string {
	return []string{treetest.LargeIDs, treetest.Sparse, treetest.Times, treetest.ACLs, treetest.Attributes}
}

// slow says which cases take long on this ZFS: it counts what was written after 30 s, and how large
// files are is its own affair. Or which do what others, and tests of this package, do in less.
func slow() []string {
	return []string{
		"UsedGrows", "WhatASizeCounts", "ConstantSnapshots", "ShrinkIsRefusedBelowWhatIsThere", "GrowMounted",
		"StreamsAreAlwaysTheSame", "CopyBecomesHome", "WhatACopyIsNot", "DamagedStreamIsRefused",
	}
}
