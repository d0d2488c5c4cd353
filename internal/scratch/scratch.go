// Package scratch provides tests with real filesystems: images on loop devices that are mounted for one test. It needs
// root, loop devices and the mkfs programs. On a host without them the test fails. Only tests call it. Everything that
// it makes is removed when the test ends. The only state is the zfs-fuse server of [ZFS], which a mutex protects. A new
// kind of filesystem belongs in scratch.go (Format), and a new way to fail in failing.go.
package scratch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
)

// Suitable sizes for each filesystem, in bytes. XFS refuses less than 300 MiB.
const (
	XFS   = 512 << 20
	Btrfs = 512 << 20
	Ext4  = 128 << 20
)

// Image returns the path of a new sparse file of size bytes, formatted as fstype
// (xfs, btrfs, ext4), or empty when fstype is "".
func Image(tb testing.TB, fstype string, size int64) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "image")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		tb.Fatal(err)
	}
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
	if fstype != "" {
		Format(tb, fstype, path)
	}
	return path
}

// Format creates a filesystem with sectors of 4096 bytes in the file or device at path.
func Format(tb testing.TB, fstype, path string) {
	tb.Helper()
	args, ok := map[string][]string{
		"xfs":   {"-q", "-s", "size=4096", "-m", "reflink=1", path},
		"btrfs": {"-q", path},
		"ext4":  {"-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0", path},
	}[fstype]
	if !ok {
		tb.Fatalf("scratch: unknown filesystem %q (available: btrfs, ext4, xfs)", fstype)
	}
	Run(tb, "mkfs."+fstype, args...)
}

// Run runs a command and returns its standard output. If the command fails, the test ends.
func Run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	var sys run.System
	// Clean-ups also run commands, after the context of the test has ended.
	res, err := sys.Run(context.WithoutCancel(tb.Context()),
		run.Command{Name: name, Args: args, Timeout: 2 * time.Minute})
	if err != nil {
		tb.Fatal(err)
	}
	return string(res.Stdout)
}

// Mount creates a filesystem, mounts it for the test, and returns the mount point.
func Mount(tb testing.TB, fstype string, size int64, options ...string) string {
	tb.Helper()
	return MountImage(tb, fstype, Image(tb, fstype, size), options...)
}

// MountImage mounts the filesystem in an image file for the test, and returns the mount point.
func MountImage(tb testing.TB, fstype, image string, options ...string) string {
	tb.Helper()
	dev, err := loopdev.Attach(tb.Context(), image, loopdev.Options{BlockSize: 4096})
	if err != nil {
		tb.Fatal(err)
	}
	defer dev.Close()
	target := filepath.Join(tb.TempDir(), "mnt")
	if err := os.Mkdir(target, 0o700); err != nil {
		tb.Fatal(err)
	}
	spec := mount.Spec{Source: dev.Path, FSType: fstype, Options: options}
	err = mount.Mount(target, spec)
	// If the image is a copy of a btrfs that is mounted, the kernel gives the second mount another UUID. If another
	// mount happens at the same time, the kernel treats this btrfs as damaged (seen on Linux 6.18). So the mount is
	// repeated.
	for range copyTries {
		if fstype != "btrfs" || !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EINVAL) {
			break
		}
		tb.Logf("retrying: %v", err)
		time.Sleep(100 * time.Millisecond) // there is no event to wait for
		// An earlier copy may have been on a device with the same number. The kernel remembers that copy, and refuses
		// the new one.
		if _, err := (&run.System{}).Run(tb.Context(), run.Command{
			Name:    "btrfs",
			Args:    []string{"device", "scan", "--forget", dev.Path},
			Timeout: patience,
		}); err != nil {
			tb.Log(err)
		}
		err = mount.Mount(target, spec)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := unmountAll(target); err != nil {
			tb.Error(err)
		}
	})
	return target
}

const (
	patience  = 10 * time.Second
	copyTries = 50
)

// unmountAll unmounts target and all mounts that a failed test left below it. Mounts that are still in use
// are detached, so that they end with their last user, and reported.
func unmountAll(target string) error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	var first error
	under := table.Under(target)
	for _, m := range under {
		Thaw(m.Mountpoint)
	}
	for i := len(under) - 1; i >= 0; i-- {
		point := under[i].Mountpoint
		err := mount.Unmount(point)
		// Containers of another test may have copies of all mounts for a while, and so keep the loop devices of this
		// one busy.
		for deadline := time.Now().Add(patience); errors.Is(err, mount.ErrBusy) && time.Now().Before(deadline); {
			err = mount.Unmount(point)
		}
		if err == nil {
			continue
		}
		if first == nil {
			first = fmt.Errorf("scratch: left behind by the test: %w", err)
		}
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("scratch: detach %s: %w", point, err)
		}
	}
	return first
}

// Copy copies the image of a filesystem as a power cut would leave it: the state of one moment. The filesystem may be
// mounted. A plain copy could contain only a part of the kernel's writes at that time, for example inodes from the log
// but not the record that frees the log.
func Copy(tb testing.TB, image, to string) {
	tb.Helper()
	written := func() time.Time {
		info, err := os.Stat(image)
		if err != nil {
			tb.Fatal(err)
		}
		return info.ModTime()
	}
	for range copyTries {
		before := written()
		Run(tb, "cp", "--sparse=always", image, to)
		if written().Equal(before) {
			return
		}
		tb.Logf("%s was written to during the copy: retrying", image)
	}
	tb.Fatalf("%s is written to continuously", image)
}

// CutPower returns the root of the filesystem in an image as it would be after a power cut now. The filesystem may be
// mounted.
func CutPower(tb testing.TB, fstype, image string) (root string) {
	tb.Helper()
	to := filepath.Join(tb.TempDir(), "cut")
	Copy(tb, image, to)
	var options []string
	if fstype == "xfs" { // XFS refuses to mount a second filesystem with the same UUID
		options = []string{"nouuid"}
	}
	return MountImage(tb, fstype, to, options...)
}

// Disk returns the path of an empty block device of size bytes, which exists until the test ends.
func Disk(tb testing.TB, size int64) string {
	tb.Helper()
	dev, err := loopdev.Attach(tb.Context(), Image(tb, "", size), loopdev.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := dev.Close(); err != nil {
			tb.Error(err)
		}
	})
	return dev.Path
}
