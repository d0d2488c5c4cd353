package loop

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/assert"
)

// The next mount completes a resize that was interrupted after the image grew.
func TestGrowAtMount(t *testing.T) {
	f := newFixture(t, "xfs")
	d := newDataset(xfs)
	f.create(d)
	f.must(
		os.Truncate(filepath.Join(f.Shelf.Path(), shelf.Datasets, d.ID.String(), "head.img"),
			imageFor(xfs, larger, false)))
	att, err := f.Attach(t.Context(), d.ID, backends.AttachOptions{})
	f.must(err)
	if !att.Mount.Grow {
		t.Error("no growth is asked for")
	}
	f.must(att.Release())
	root, _ := f.mounted(d.ID)
	dir, err := os.Open(root)
	f.must(err)
	for range 2 {
		f.must(f.Grow(t.Context(), d.ID, dir))
	}
	dir.Close()
	f.hasSize(d.ID, larger)
}

// If a growth fails after the filesystem has grown, the image is not cut off again.
func TestGrownImageStays(t *testing.T) {
	f := newFixture(t, "xfs")
	d := newDataset(xfs)
	f.create(d)
	root, _ := f.mounted(d.ID)
	dir, err := os.Open(root)
	f.must(err)
	defer dir.Close()
	image, err := os.OpenFile(filepath.Join(f.Shelf.Path(), shelf.Datasets, d.ID.String(), "head.img"), os.O_RDWR, 0)
	f.must(err)
	defer image.Close()
	info, _, err := loopdev.Attached(image)
	f.must(err)
	size, failed := imageFor(xfs, larger, false), errors.New("it failed")
	grow := func() (int64, error) { return 0, errors.Join(fsctl.Grow(dir, xfs, size), failed) }
	err = f.enlarge(dir, xfs, mountedGrowth{image, info.Path, size, info.Path, grow})
	if st, sErr := image.Stat(); !errors.Is(err, failed) || sErr != nil || st.Size() != size {
		t.Errorf("%v, and the image has %d bytes, want %d (%v)", err, st.Size(), size, sErr)
	}
}

func TestResizeMounted(t *testing.T) {
	onAll(t, func(f *fixture, d dataset.Dataset) {
		f.create(d)
		root, unmount := f.mounted(d.ID)
		f.write(filepath.Join(root, "a"), "data")
		dir, err := os.Open(root)
		f.must(err)
		defer dir.Close()
		f.isKind(f.Resize(f.Context(), d.ID, larger, nil), dataset.ErrInUse)
		err = f.Resize(f.Context(), d.ID, larger, dir)
		if slices.Contains(f.Info().Capabilities.OfflineGrow, d.Profile.Filesystem.Type) {
			f.isKind(err, dataset.ErrUnsupported)
			dir.Close()
			unmount()
			f.hasSize(d.ID, d.Size)
			f.must(f.Resize(f.Context(), d.ID, larger, nil))
		} else {
			f.must(err)
			dir.Close()
			unmount()
		}
		f.hasSize(d.ID, larger)
		if got := f.get(d.ID, "a"); got != "data" {
			f.Errorf("got %q", got)
		}
		root, _ = f.mounted(d.ID)
		if left, err := os.ReadDir(root); err != nil || len(left) != 1 {
			f.Errorf("the root holds %v (%v)", left, err)
		}
	})
}

// headBytes returns the length of a head's image.
func (f *fixture) headBytes(id uuid.UUID) int64 {
	f.Helper()
	size, err := f.imageSize(f.folderOf(id).Dir, headItem)
	f.must(err)
	return size
}

// runFunc is a function as a runner.
type runFunc func(ctx context.Context, c run.Command) (run.Result, error)

func (r runFunc) Run(ctx context.Context, c run.Command) (run.Result, error) { return r(ctx, c) }

// A mount of an image that ends late, because a forked process keeps it for a moment, overwrites nothing that
// resize2fs has written.
func TestGrowBesideALateUnmount(t *testing.T) {
	f := newFixture(t, "btrfs")
	c := f.stage(ext4)
	c.Other.Size = larger
	var late struct {
		dev  *loopdev.Device
		root *os.File
		once sync.Once
	}
	end := func() {
		late.once.Do(func() {
			assert.NoError(t, errors.Join(late.root.Close(), late.dev.Close()))
		})
	}
	f.forks.Next = runFunc(func(ctx context.Context, cmd run.Command) (run.Result, error) {
		res, err := (&run.System{}).Run(ctx, cmd)
		if cmd.Name == "resize2fs" {
			end() // otherwise it would not end before this
		}
		return res, err
	})
	f.backend.step = func(step string) {
		if step != "loop.resize.truncated" {
			return
		}
		images, _ := filepath.Glob(filepath.Join(f.Shelf.Path(), shelf.Incoming, "*", f.layout.Image(nextItem)))
		if len(images) != 1 {
			t.Fatalf("clones in the making: %v", images)
		}
		var err error
		late.dev, err = openDevice(t.Context(), images[0], loopdev.Options{BlockSize: sector, Sole: true})
		f.must(err)
		late.root, err = mount.Detached(mount.Spec{Source: late.dev.Path, FSType: ext4})
		f.must(err)
		time.AfterFunc(100*time.Millisecond, end)
	}
	_, err := f.Clone(t.Context(), c.Other, head0(c.Dataset), nil)
	f.must(err)
	end()
	f.hasSize(c.Other.ID, larger)
}

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
