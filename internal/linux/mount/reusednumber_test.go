package mount_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

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
