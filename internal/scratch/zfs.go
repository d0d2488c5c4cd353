package scratch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
)

const serverVariable = "DROVER_TEST_ZFS_FUSE"

// runWithoutSync replaces this process by zfs-fuse without its sync(2). zfs-fuse calls sync(2) at each unmount, while
// it holds a lock that all of its filesystems wait for. That would wait for every disk of this host.
//
// zfs-fuse gets the highest priority. Many of its 117 threads work on a command, one after the other, and on a busy
// machine each of them waits for a processor. With the default priority the tests take ten times as long there.
func runWithoutSync(path string) error {
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -20) // without it, the tests take longer and test the same
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // load the number of the system call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SYNC, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO}, // return 0 without doing it
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0,
		0); err != nil {
		return fmt.Errorf("take sync(2) away: %w", err)
	}
	return unix.Exec(path, []string{path, "--no-daemon", "--no-kstat-mount", "--enable-xattr"}, os.Environ())
}

// ZFS creates zpools with a zfs-fuse process that runs as long as the test. In the mount namespace of Main, the fixed
// paths of zfs-fuse (socket, lock, list of pools) are private too. The zero value is ready for use.
type ZFS struct {
	mu    sync.Mutex
	stop  func() // ends the running server; nil if there is none
	pools int
}

// Pool creates a zpool of size bytes for a test. It returns the name of the pool and its mount point. A test can have
// several.
func (z *ZFS) Pool(tb testing.TB, size int64) (name, mountpoint string) {
	tb.Helper()
	z.mu.Lock()
	defer z.mu.Unlock()
	image, mountpoint := filepath.Join(memory(tb), "image"), filepath.Join(tb.TempDir(), "mnt")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
		tb.Fatal(err)
	}
	z.pools++
	name = fmt.Sprint("tank", z.pools)
	if z.stop == nil {
		z.serve(tb)
	}
	tb.Cleanup(z.stop) // before their disks are removed
	Run(tb, "zpool", "create", "-O", "atime=off", "-m", mountpoint, name, image)
	return name, mountpoint
}

// memory returns a directory on a tmpfs, because zfs-fuse waits for its disk after each command.
func memory(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "mode=700"); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			tb.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// serve starts a separate zfs-fuse for each test, because another process may still use a filesystem that an earlier
// test has unmounted.
func (z *ZFS) serve(tb testing.TB) {
	tb.Helper()
	path, err := run.LookPath("zfs-fuse")
	if err != nil {
		tb.Fatalf("%v (apt-get install zfs-fuse)", err)
	}
	for _, dir := range []string{"/run/zfs", "/run/lock/zfs", "/var/lib/zfs"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := unix.Mount("none", dir, "tmpfs", 0, "mode=755"); err != nil {
			tb.Fatalf("a private %s: %v", dir, err)
		}
		tb.Cleanup(func() {
			if err := unix.Unmount(dir, 0); err != nil {
				tb.Errorf("unmount %s: %v", dir, err)
			}
		})
	}
	kill, err := start(path)
	if err != nil {
		tb.Fatal(err)
	}
	z.stop = sync.OnceFunc(func() {
		z.mu.Lock()
		defer z.mu.Unlock()
		z.stop = nil
		kill()
		table, err := mount.Table()
		if err != nil {
			tb.Error(err)
		}
		for _, m := range table {
			if m.FSType == "fuse.zfs" {
				_ = unix.Unmount(m.Mountpoint, unix.MNT_DETACH)
			}
		}
	})
	for range 400 {
		if _, err := os.Stat("/run/zfs/zfs_socket"); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	tb.Fatal("zfs-fuse created no socket within 20 s")
}

// start starts zfs-fuse. The kernel kills zfs-fuse when the thread that started it ends. So the thread does not end
// before kill is called.
func start(path string) (kill func(), err error) {
	begun, end := make(chan error), make(chan struct{})
	var thread sync.WaitGroup
	thread.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			begun <- err
			return
		}
		defer null.Close()
		server, err := os.StartProcess("/proc/self/exe", []string{"zfs-fuse"}, &os.ProcAttr{
			Env:   append(os.Environ(), serverVariable+"="+path),
			Files: []*os.File{null, null, null},
			Sys:   &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL},
		})
		if begun <- err; err != nil {
			return
		}
		<-end
		_ = server.Kill()
		_, _ = server.Wait()
	})
	if err := <-begun; err != nil {
		thread.Wait()
		return nil, err
	}
	return func() {
		close(end)
		thread.Wait()
	}, nil
}
