package loop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/run"
)

// offlineGrow returns those of some filesystems that cannot grow while they are
// mounted.
func offlineGrow(filesystems []string) ([]string, error) {
	if !slices.Contains(filesystems, ext4) {
		return nil, nil
	}
	if grows, err := fsctl.CanGrowExt4(); err != nil || grows {
		return nil, err
	}
	return []string{ext4}, nil
}

// Resize implements backends.Resizer: the image first, then its device, then the
// filesystem in it.
func (p *Pool) Resize(ctx context.Context, id uuid.UUID, size dataset.Size, root *os.File) error {
	err := p.within(id, func(dir folder.Dir) error {
		have, err := p.sizeOf(dir, layout.Head)
		if err != nil {
			return err
		}
		fits := have.imageFor(roundUp(size))
		if roundUp(size) < have.size || fits+fits/32 < have.image {
			return dataset.Errorf(dataset.ErrUnsupported, "it has %s, and images can't shrink",
				max(have.size, mkfs.Size(have.fs, dataset.Size(have.image))))
		}
		if err := mkfs.CheckMax(size); err != nil {
			return err
		}
		want := max(fits, have.image)
		if root != nil {
			return p.growMounted(ctx, dir, want, root)
		}
		if err := p.idle(ctx, dir); err != nil {
			return err
		}
		fs, grow, err := p.inspect(dir, layout.Head)
		if err != nil {
			return err
		}
		if want == have.image && !grow {
			return p.layout.Flush(dir)
		}
		return p.growHead(ctx, dir, fs, want)
	})
	if err != nil {
		return fmt.Errorf("resize dataset %s to %s: %w", id, size, err)
	}
	return nil
}

// Grow implements backends.Resizer.
func (p *Pool) Grow(ctx context.Context, id uuid.UUID, root *os.File) error {
	err := p.within(id, func(dir folder.Dir) error {
		have, err := p.imageSize(dir, layout.Head)
		if err != nil {
			return err
		}
		return p.growMounted(ctx, dir, have, root)
	})
	if err != nil {
		return fmt.Errorf("grow dataset %s: %w", id, err)
	}
	return nil
}

// growMounted grows the head, which is mounted at root.
func (p *Pool) growMounted(ctx context.Context, dir folder.Dir, size int64, root *os.File) error {
	fs, _, err := p.inspect(dir, layout.Head)
	if err != nil {
		return err
	}
	image, err := dir.OpenFile(p.layout.Image(layout.Head), os.O_RDWR)
	if err != nil {
		return err
	}
	defer image.Close()
	info, attached, err := loopdev.Attached(image)
	if err != nil {
		return err
	}
	if !attached {
		return dataset.Errorf(dataset.ErrConflict, "it is not mounted")
	}
	g := growth{image: image, device: info.Path, size: size}
	if fs == luks {
		if fs, g.inner, g.inside, err = p.growsInside(ctx, dir, info.Path); err != nil {
			return err
		}
	}
	if err := growable(fs); err != nil {
		return err
	}
	if err := p.enlarge(root, fs, g); err != nil {
		return err
	}
	return errors.Join(fsctl.Sync(root), image.Sync(), p.layout.Flush(dir))
}

// growth is what one mounted filesystem grows with.
type growth struct {
	image  *os.File
	device string // the image's loop device
	size   int64  // that the image gets
	inner  string // the device that the filesystem lies on, if that is not the loop device
	// inside has the inner device fill the loop device, and returns how many bytes it has then.
	inside func() (int64, error)
}

// enlarge grows an image, its devices and the filesystem in it, which is mounted at root. If it
// fails, all of them are as large as before, so that no later mount finishes what was refused.
// Only a filesystem that has begun to grow keeps its larger image.
func (p *Pool) enlarge(root *os.File, fs string, g growth) error {
	had, err := g.image.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if g.inside == nil {
		g.inner, g.inside = g.device, func() (int64, error) { return g.image.Seek(0, io.SeekEnd) }
	}
	before, err := sizeOfMounted(root, fs, g.inner)
	if err != nil {
		return err
	}
	if err = p.enlargeAll(root, fs, g); err == nil || errors.Is(err, fsctl.ErrCapability) {
		return err // growIdle resumes after the latter
	}
	now, sErr := sizeOfMounted(root, fs, g.inner)
	if sErr != nil || now != before {
		return errors.Join(err, sErr)
	}
	undo := g.image.Truncate(had)
	if undo == nil {
		undo = loopdev.SetCapacity(g.device)
	}
	if undo == nil {
		_, undo = g.inside()
	}
	if undo != nil {
		return fmt.Errorf("%w (and its image is not as large as before: %w)", err, undo)
	}
	return err
}

func (p *Pool) enlargeAll(root *os.File, fs string, g growth) error {
	if err := g.image.Truncate(g.size); err != nil {
		return err
	}
	p.step("resize.truncated")
	if err := loopdev.SetCapacity(g.device); err != nil {
		return err
	}
	p.step("resize.capacity")
	size, err := g.inside()
	if err != nil {
		return err
	}
	return growFS(root, fs, size)
}

// sizeOfMounted returns how many bytes the filesystem mounted at root takes of its device. ext4
// keeps its superblock in the device's page cache. XFS does not, but answers a question.
func sizeOfMounted(root *os.File, fs, device string) (int64, error) {
	if fs == xfs {
		return fsctl.SizeXFS(root)
	}
	dev, err := os.Open(device)
	if err != nil {
		return 0, err
	}
	defer dev.Close()
	_, size, err := superblock(dev)
	return size, err
}

// growable refuses before anything was changed what would fail after.
func growable(fs string) error {
	if fs != ext4 {
		return nil
	}
	ok, err := fsctl.CanGrowExt4()
	if err == nil && !ok {
		err = dataset.Errorf(dataset.ErrUnsupported,
			"ext4 can't grow while mounted, since this process has no CAP_SYS_RESOURCE: stop the volume's "+
				"containers first")
	}
	return err
}

func growFS(root *os.File, fs string, size int64) error {
	if fs == xfs {
		return fsctl.GrowXFS(root, size)
	}
	return fsctl.GrowExt4(root, size)
}

// growHead grows a head that is not in use. Where the kernel does it, every step is
// journalled and can be done again; resize2fs works on a clone, because a crash in
// the middle of it can leave a wreck.
func (p *Pool) growHead(ctx context.Context, dir folder.Dir, fs string, size int64) error {
	inPlace := true
	if fs == ext4 || fs == luks {
		var err error
		if inPlace, err = fsctl.CanGrowExt4(); err != nil {
			return err
		}
	}
	if inPlace {
		if err := p.own(ctx, dir); errors.Is(err, loopdev.ErrAttached) {
			return dataset.Errorf(dataset.ErrInUse, "%w", err)
		} else if err != nil {
			return err
		}
		if err := p.growIdle(ctx, dir, layout.Head, size); err != nil {
			return err
		}
		return p.layout.Flush(dir)
	}
	if _, err := run.LookPath("resize2fs"); err != nil && fs == ext4 {
		return dataset.Errorf(dataset.ErrUnsupported,
			"growing ext4 needs resize2fs here, as this process has no CAP_SYS_RESOURCE (apt-get install e2fsprogs)")
	}
	return p.exchange(dir, layout.Head, func(*os.File) error { return p.growIdle(ctx, dir, layout.Next, size) })
}

// growIdle grows an item that nothing uses, its image and the filesystem in it. It mounts the
// filesystem first, so that one that cannot be mounted is refused before anything changes.
func (p *Pool) growIdle(ctx context.Context, dir folder.Dir, item string, size int64) error {
	image, err := dir.OpenFile(p.layout.Image(item), os.O_RDWR)
	if err != nil {
		return err
	}
	defer image.Close()
	fs, _, err := superblock(image)
	if err != nil {
		return err
	}
	var key []byte
	if fs == luks { // before anything is changed
		if key, err = p.fits(ctx, dir, item); err != nil {
			return err
		}
	}
	path := dir.Path(p.layout.Image(item))
	if fs == luks {
		return errors.Join(p.growInContainer(ctx, dir, growth{image: image, size: size}, key), image.Sync())
	}
	dev, err := attach(ctx, path, loopdev.Options{DirectIO: p.direct, BlockSize: layout.Sector, Sole: true})
	if err != nil {
		return err
	}
	err = detached(dev.Path, fs, func(root *os.File) error {
		return p.enlarge(root, fs, growth{image: image, device: dev.Path, size: size})
	})
	err = errors.Join(err, dev.Close())
	// The mount has replayed the journal all the same, as resize2fs demands.
	if errors.Is(err, fsctl.ErrCapability) {
		if err = unattached(ctx, image); err == nil {
			err = p.resize2fs(ctx, path, size)
		}
	}
	if err != nil {
		return err
	}
	return image.Sync()
}

// unattached waits until no device has an image, and keeps them all off until it is closed. A mount
// that nobody sees ends with its last descriptor, and a child that this process has just forked has
// that one until its exec: what the kernel writes at that end would undo what resize2fs has written.
func unattached(ctx context.Context, image *os.File) error {
	ctx, cancel := context.WithTimeoutCause(ctx, attachTimeout, errors.New("waited too long"))
	defer cancel()
	for {
		err := loopdev.Claim(ctx, image)
		if !errors.Is(err, loopdev.ErrAttached) {
			return err
		}
		select {
		case <-ctx.Done():
			return dataset.Errorf(dataset.ErrInUse, "%w: %w", err, context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
}

const resizeTimeout = 90 * time.Second

// resize2fs grows an unmounted ext4. -f, as its last check is older than its last mount.
func (p *Pool) resize2fs(ctx context.Context, path string, size int64) error {
	_, err := p.backend.runner.Run(ctx, run.Command{
		Name: "resize2fs", Args: []string{"-f", path, strconv.FormatInt(size/1024, 10) + "K"}, Timeout: resizeTimeout,
	})
	return err
}
