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
		if err != nil {
			t.Fatal(err)
		}
		if holders := look.Holders(fsys, ""); fsys.Reused() || len(holders) == 0 {
			t.Errorf("after %s: reused %t, holders %v", after, fsys.Reused(), holders)
		}
	}
	same("the mount")
	if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		t.Fatal(err)
	}
	same("a change of its size")
	if err := mount.Unmount(target); err != nil {
		t.Fatal(err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
	mountAt(t, target, mount.Spec{Source: dev.Path, FSType: "ext4"})
	fsys := mount.Identify(table(t).At(target))
	next := opened(t, scratch.Image(t, "ext4", scratch.Ext4))
	if err := errors.Join(mount.Unmount(target), dev.Close()); err != nil {
		t.Fatal(err)
	}
	attachTo(t, opened(t, dev.Path), next)
	container(t, `mount -t ext4 "$1" "$2"`, dev.Path, inside)
	look, err := mount.ReadForeign()
	if err != nil {
		t.Fatal(err)
	}
	if holders := look.Holders(fsys, ""); !fsys.Reused() || len(holders) > 0 {
		t.Errorf("reused %t, holders %v", fsys.Reused(), holders)
	}
}

func opened(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
}
