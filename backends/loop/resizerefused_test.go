package loop

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
)

// headPath returns the path of a dataset's head.
func (f *fixture) headPath(d dataset.Dataset) string {
	return filepath.Join(f.Shelf.Path(), shelf.Datasets, d.ID.String(), f.layout.Image(headItem))
}

// unresized fails the test unless a dataset that is not mounted has its original size, and keeps it when it is
// mounted.
func (f *fixture) unresized(d dataset.Dataset, bytes int64) {
	f.Helper()
	if now := f.headBytes(d.ID); now != bytes {
		f.Errorf("the resize was refused, and the image has %d bytes of %d", now, bytes)
	}
	att, err := f.Attach(f.Context(), d.ID, backends.AttachOptions{})
	f.must(err)
	if att.Mount.Grow {
		f.Error("the next mount is to grow it")
	}
	f.must(att.Release())
	f.hasSize(d.ID, d.Size)
}

// A refused resize has no effect later: the image of a filesystem that cannot be mounted keeps its size.
func TestResizeOfADamagedFilesystem(t *testing.T) {
	onAll(t, func(f *fixture, d dataset.Dataset) {
		f.create(d)
		f.put(d.ID, "a", "kept")
		had := f.headBytes(d.ID)
		image, err := os.OpenFile(f.headPath(d), os.O_RDWR, 0)
		f.must(err)
		defer image.Close()
		// Behind the superblock: the headers of XFS's first group, ext4's group descriptors.
		was := make([]byte, 12<<10)
		_, err = image.ReadAt(was, sector)
		f.must(err)
		_, err = image.WriteAt(make([]byte, len(was)), sector)
		f.must(err)
		f.must(image.Sync())
		if err := f.Resize(f.Context(), d.ID, larger, nil); err == nil {
			f.Error("resized")
		}
		_, err = image.WriteAt(was, sector)
		f.must(err)
		f.must(image.Sync())
		f.unresized(d, had)
		if got := f.get(d.ID, "a"); got != "kept" {
			f.Errorf("it holds %q", got)
		}
	})
}

// If the kernel refuses to grow a mounted filesystem, the image and the device keep their size, and later writes are
// kept.
func TestResizeThatTheKernelRefuses(t *testing.T) {
	onAll(t, func(f *fixture, d dataset.Dataset) {
		if grows, err := fsctl.CanGrowExt4(); d.Profile.Filesystem.Type == ext4 && (err != nil || !grows) {
			return // it is refused before anything is changed: see TestResizeMounted
		}
		f.create(d)
		had := f.headBytes(d.ID)
		root, unmount := f.mounted(d.ID)
		dir, err := os.Open(root)
		f.must(err)
		defer dir.Close()
		remount := func(flags uintptr) { f.must(unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_NODEV|flags, "")) }
		f.backend.step = func(step string) {
			if step == "loop.resize.capacity" {
				remount(unix.MS_RDONLY)
			}
		}
		if err := f.Resize(f.Context(), d.ID, larger, dir); err == nil {
			f.Error("a filesystem that nobody may write to was resized")
		}
		f.backend.step = func(string) {}
		if now := f.headBytes(d.ID); now != had {
			f.Errorf("the image has %d bytes of %d", now, had)
		}
		remount(0)
		f.write(filepath.Join(root, "a"), "kept")
		dir.Close()
		unmount()
		f.unresized(d, had)
		if got := f.get(d.ID, "a"); got != "kept" {
			f.Errorf("it holds %q", got)
		}
		root, _ = f.mounted(d.ID)
		again, err := os.Open(root)
		f.must(err)
		defer again.Close()
		f.must(f.Resize(f.Context(), d.ID, larger, again))
	})
}
