package faults

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// disk is a disk of a host that can lose its power: an image file on a filesystem with reflinks, so that a copy of it
// has the state of one moment.
type disk struct {
	fs    string
	at    string // where it is mounted
	image string // what is mounted there now
}

// newDisk makes and mounts a disk. shelf is a folder for images on a filesystem with reflinks.
func newDisk(t testing.TB, shelf, fs string, size int64) *disk {
	t.Helper()
	d := &disk{fs: fs, at: filepath.Join(t.TempDir(), "disk")}
	d.image = filepath.Join(shelf, uuid.NewString())
	f, err := os.Create(d.image)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close(), os.Mkdir(d.at, 0o755))
	}
	require.NoError(t, err)
	scratch.Format(t, fs, d.image)
	d.plugIn(t)
	t.Cleanup(func() { d.unplug(t) })
	return d
}

func (d *disk) plugIn(t testing.TB) {
	t.Helper()
	dev, err := loopdev.Attach(t.Context(), d.image, loopdev.Options{BlockSize: 4096})
	require.NoError(t, err)
	defer dev.Close()
	require.NoError(t, mount.Mount(d.at, mount.Spec{Source: dev.Path, FSType: d.fs}))
}

// unplug unmounts the disk. Anything mounted from it must be unmounted before.
func (d *disk) unplug(t testing.TB) {
	t.Helper()
	if err := mount.Unmount(d.at); err != nil && !errors.Is(err, mount.ErrNotMounted) {
		t.Errorf("unplug a disk: %v", err)
		_ = unix.Unmount(d.at, unix.MNT_DETACH)
	}
}

// copy returns the present state of the disk: it lacks what the kernel has not written yet.
func (d *disk) copy(t testing.TB) (image string) {
	t.Helper()
	image = filepath.Join(filepath.Dir(d.image), uuid.NewString())
	from, err := os.Open(d.image)
	require.NoError(t, err)
	defer from.Close()
	to, err := os.Create(image)
	require.NoError(t, err)
	require.NoError(t, errors.Join(reflink.Clone(to, from), to.Close()))
	return image
}

// become replaces the contents of the disk by an image.
func (d *disk) become(t testing.TB, image string) {
	t.Helper()
	d.unplug(t)
	require.NoError(t, os.Remove(d.image))
	d.image = image
	d.plugIn(t)
}

// powerCut cuts the power: drover is gone, and so is everything that its disks do not have. copies are the disks at
// that moment.
func (w *world) powerCut(t testing.TB, disks []*disk, copies []string, boot host.BootID) {
	t.Helper()
	w.h.Kill9(t)
	for _, path := range w.mountPaths(t) {
		thaw(path)
	}
	require.NoError(t, w.h.Unmount())
	for i, d := range disks {
		d.become(t, copies[i])
	}
	w.inUse = nil
	boot.Change(t, uuid.NewString())
}

// thaw thaws a filesystem that was frozen when its host lost its power.
func thaw(path string) {
	if f, err := os.Open(path); err == nil {
		_ = fsctl.Thaw(f) // most are not frozen
		f.Close()
	}
}
