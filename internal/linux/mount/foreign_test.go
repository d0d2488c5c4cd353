package mount_test

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// apart runs do on a thread with a separate mount namespace, and keeps the thread until the test ends.
func apart(t *testing.T, do func() error) {
	t.Helper()
	done, end, ended := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = do()
		}
		done <- err
		<-end
	}()
	require.NoError(t, <-done)
	t.Cleanup(func() { close(end); <-ended })
}

// stackDeep mounts filesystems on top of each other, on a directory whose path is longer than 64 KiB. Any user with a
// user namespace can do that.
func stackDeep(base string, mounts int) error {
	if err := os.Chdir(base); err != nil {
		return err
	}
	name := strings.Repeat("x", 250)
	for range 300 {
		if err := unix.Mkdir(name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		if err := unix.Chdir(name); err != nil {
			return err
		}
	}
	for range mounts {
		if err := unix.Mount("none", ".", "tmpfs", 0, "size=4k"); err != nil {
			return err
		}
	}
	return nil
}

// A View does not prevent an unmount, and nobody can write through it.
func TestViewIsNoUse(t *testing.T) {
	target := t.TempDir()
	if _, err := mount.View(target); !errors.Is(err, mount.ErrNotMounted) {
		t.Errorf("of a directory: %v", err)
	}
	mountAt(t, target, mount.Spec{Source: device(t, "ext4", scratch.Ext4), FSType: "ext4"})
	view, err := mount.View(target)
	require.NoError(t, err)
	defer view.Close()
	assert.NoError(t, mount.Unmount(target))
	if _, err := unix.Openat(int(view.Fd()), "file", unix.O_CREAT|unix.O_WRONLY, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("a write: %v", err)
	}
}

// A long line in the mount table of one process hides no holder, not even that process.
func TestElsewhereReadsLongLines(t *testing.T) {
	dev, target, inside, deep := device(t, "ext4", scratch.Ext4), t.TempDir(), t.TempDir(), t.TempDir()
	mountAt(t, target, mount.Spec{Source: dev, FSType: "ext4"})
	e := table(t).At(target)
	container(t, `mount --bind "$1" "$2"`, target, inside)
	apart(t, func() error {
		if err := unix.Mount(target, inside, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		return stackDeep(deep, 1)
	})
	elsewhere, err := mount.ReadForeign()
	require.NoError(t, err)
	holders := elsewhere.Holders(mount.Filesystem{Major: e.Major, Minor: e.Minor, Root: "/"}, target)
	if len(holders) != 2 || holders[0].Mountpoint != inside || holders[1].Mountpoint != inside {
		t.Errorf("%v", holders)
	}
}

// A process whose mount table is too large to be read counts as a possible holder of every filesystem.
func TestElsewhereReportsWhatItCannotRead(t *testing.T) {
	deep := t.TempDir()
	apart(t, func() error { return stackDeep(deep, mount.MaxTable/(300*250)+1) })
	elsewhere, err := mount.ReadForeign()
	require.NoError(t, err)
	holders := elsewhere.Holders(mount.Filesystem{Major: 1 << 11, Root: "/"}, "")
	if len(holders) != 1 || holders[0].PID != os.Getpid() || !errors.Is(holders[0].Unexamined, mount.ErrTooLarge) {
		t.Errorf("%v", holders)
	}
}

// The number of a loop device is reused when the device gets another file. As long as its filesystem is mounted in any
// namespace, the number is not reused, whatever else happens to the device.
func TestReused(t *testing.T) {
	target, inside := t.TempDir(), t.TempDir()
	loop := opened(t, device(t, "ext4", scratch.Ext4))
	mountAt(t, target, mount.Spec{Source: loop.Name(), FSType: "ext4"})
	fsys := mount.Identify(table(t).At(target))
	if fsys.Identity.Type != "ext4" || fsys.Identity.Sequence == "" {
		t.Fatalf("%+v", fsys)
	}
	container(t, `mount --bind "$1" "$2"; umount "$1"`, target, inside)
	same := func(after string) {
		t.Helper()
		look, err := mount.ReadForeign()
		require.NoError(t, err)
		if holders := look.Holders(fsys, ""); fsys.Reused() || len(holders) == 0 {
			t.Errorf("after %s: reused %t, holders %v", after, fsys.Reused(), holders)
		}
	}
	same("the mount")
	require.NoError(t, unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_CAPACITY, 0))
	same("a change of its size")
	require.NoError(t, mount.Unmount(target))
	same("the host's unmount")
	if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0); err != nil { // takes effect once it is unused
		t.Fatal(err)
	}
	same("a detach that waits for its last user")
}

// If the device number belongs to another filesystem now, no holder of the earlier filesystem is reported.
func TestHoldersOfReusedNumber(t *testing.T) {
	target, inside := t.TempDir(), t.TempDir()
	dev, err := loopdev.Attach(t.Context(), scratch.Image(t, "ext4", scratch.Ext4), loopdev.Options{})
	require.NoError(t, err)
	mountAt(t, target, mount.Spec{Source: dev.Path, FSType: "ext4"})
	fsys := mount.Identify(table(t).At(target))
	next := opened(t, scratch.Image(t, "ext4", scratch.Ext4))
	require.NoError(t, errors.Join(mount.Unmount(target), dev.Close()))
	attachTo(t, opened(t, dev.Path), next)
	container(t, `mount -t ext4 "$1" "$2"`, dev.Path, inside)
	look, err := mount.ReadForeign()
	require.NoError(t, err)
	if holders := look.Holders(fsys, ""); !fsys.Reused() || len(holders) > 0 {
		t.Errorf("reused %t, holders %v", fsys.Reused(), holders)
	}
}

func opened(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// attachTo attaches a file to a loop device as soon as the kernel has released the device.
func attachTo(t *testing.T, loop, file *os.File) {
	t.Helper()
	cfg := unix.LoopConfig{Fd: uint32(file.Fd())}
	cfg.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	var err error = unix.EBUSY
	for end := time.Now().Add(10 * time.Second); errors.Is(err, unix.EBUSY) && time.Now().Before(end); {
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &cfg)
	}
	require.NoError(t, err)
}
