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

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
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
