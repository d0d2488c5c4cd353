package guard_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
)

// playPrivate mounts a block device with an ext4 that only its mount namespace shows, and plays another role
// in it.
func playPrivate(device, target string, args []string) error {
	if err := privateMounts(); err != nil {
		return err
	}
	if err := unix.Mount(device, target, "ext4", 0, ""); err != nil {
		return err
	}
	if err := os.Setenv("DROVER_GUARD_TEST_ROLE", args[0]); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", append(os.Args[:1:1], args[1:]...), os.Environ())
}

// attachTo attaches an image to a loop device as soon as the kernel has released that device.
func attachTo(t *testing.T, number int, image string) (device string) {
	t.Helper()
	device = "/dev/loop" + strconv.Itoa(number)
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	dev, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dev.Close() })
	cfg := unix.LoopConfig{Fd: uint32(file.Fd())}
	cfg.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	await(t, device+" is attached to another image", func() bool {
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &cfg)
		return !errors.Is(err, unix.EBUSY)
	}, func() string { return err.Error() })
	if err != nil {
		t.Fatal(err)
	}
	return device
}

// thawOf thaws a filesystem that a process has mounted, if it is frozen.
func thawOf(pid int, path string) {
	roots, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/root", pid)) // the pattern is valid
	for _, root := range roots {
		if dir, err := os.Open(filepath.Join(root, path)); err == nil {
			_ = fsctl.Thaw(dir)
			_ = dir.Close()
		}
	}
}

// unmounted unmounts a dataset on the host.
func unmounted(t *testing.T, r guard.Registration) {
	t.Helper()
	if err := unix.Unmount(r.Paths[0], 0); err != nil {
		t.Fatal(err)
	}
}

// The kernel gives the number of a released loop device to the next one. A process that has the next one
// mounted does not hold the dataset.
func TestReusedDeviceNumber(t *testing.T) {
	w := newWorld(t)
	r := own(t)
	table, err := mount.Table()
	if err != nil {
		t.Fatal(err)
	}
	number := table.At(r.Paths[0]).Minor
	image, inside := scratch.Image(t, "ext4", scratch.Ext4), t.TempDir()
	r = w.armed(t, r, time.Second)
	unmounted(t, r)
	device := attachTo(t, number, image)
	log := filepath.Join(t.TempDir(), "log")
	cmd := begin(t, "private", device, inside, "writer", filepath.Join(inside, "file"), log)
	t.Cleanup(func() { // Before the end of a process that waits for a filesystem that was frozen by mistake.
		w.kill(t)
		thawOf(cmd.Process.Pid, inside)
	})
	wrote(t, log, 0)
	e := w.fenced(t, r.Dataset)
	w.recheckedAfter(t, r.Dataset, clock.Boottime())
	wrote(t, log, clock.Boottime())
	if state := stateOf(t, cmd.Process.Pid); state == "T" || state == "Z" {
		t.Errorf("a process that has another filesystem mounted is in state %s: %+v", state, e.Steps)
	}
}

// If the host has unmounted a dataset, a process can still have a file of it open through a mount that is in no mount
// table.
func TestI1DetachedAfterUnmount(t *testing.T) {
	w := newWorld(t)
	r := own(t)
	log := filepath.Join(t.TempDir(), "log")
	cmd := begin(t, "lazy", r.Paths[0], t.TempDir(), log)
	wrote(t, log, 0)
	r = w.armed(t, r, ahead)
	unmounted(t, r)
	e := w.fenced(t, r.Dataset)
	w.recheckedAfter(t, r.Dataset, e.Fence.At)
	silent(t, log, e)
	if state := stateOf(t, cmd.Process.Pid); state != "T" && state != "Z" { // killed, if the host is busy
		t.Errorf("the holder is in state %s: %+v", state, e.Steps)
	}
}

// Root has mounted the filesystem of a dataset in a second place, and Drover's own mount is gone. The writers
// in a container are fenced all the same, and continue after a thaw.
func TestI1MountedElsewhere(t *testing.T) {
	for name, part := range map[string]string{"all of it": "", "a part of it": "part"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := own(t)
			inside, other, log := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "log")
			source := filepath.Join(r.Paths[0], part)
			if err := os.MkdirAll(source, 0o700); err != nil {
				t.Fatal(err)
			}
			cmd := begin(t, "container", source, inside, "writer", filepath.Join(inside, "file"), log)
			wrote(t, log, 0)
			r = w.armed(t, r, time.Second)
			if err := unix.Mount(source, other, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				w.kill(t)
				thawOf(os.Getpid(), other)
				if err := unix.Unmount(other, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			unmounted(t, r)
			e := w.fenced(t, r.Dataset)
			w.recheckedAfter(t, r.Dataset, e.Fence.At)
			silent(t, log, e)
			if e.Fence.By != guard.ActFreeze {
				t.Errorf("%+v", e)
			}
			if _, err := w.Thaw(t.Context(), r.Dataset, r.Epoch, clock.Boottime()+time.Minute); err != nil {
				t.Fatal(err)
			}
			wrote(t, log, clock.Boottime())
			if state := stateOf(t, cmd.Process.Pid); state == "T" {
				t.Error("the writer is still stopped")
			}
		})
	}
}
