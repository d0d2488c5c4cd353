package loop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/google/uuid"
)

// Resize implements backends.Resizer. It grows the image first, then its device, then the filesystem in it. It fails
// with dataset.ErrUnsupported if the size is less than the present one, or if the image is more than 1/32 larger than
// the new size needs.
func (p *Pool) Resize(ctx context.Context, id uuid.UUID, size dataset.Size, root *os.File) (err error) {
	defer backends.Wrap(&err, "resize dataset %s to %s", id, size)
	f, err := p.findHead(id)
	if err != nil {
		return err
	}
	defer f.Close()
	dir := f.Dir
	present, err := p.sizeOf(dir, headItem)
	if err != nil {
		return err
	}
	fits := present.ImageFor(size)
	if size < present.Size || fits+fits/32 < present.Image {
		return dataset.Errorf(dataset.ErrUnsupported, "it has %s, and images cannot shrink",
			max(present.Size, mkfs.Size(present.FS, dataset.Size(present.Image))))
	}
	if err := mkfs.CheckMax(size); err != nil {
		return err
	}
	want := max(fits, present.Image)
	if root != nil {
		return p.growMounted(ctx, dir, want, root)
	}
	if err := p.release(ctx, dir, false); err != nil {
		return err
	}
	fs, grow, err := p.inspect(dir, headItem)
	if err != nil {
		return err
	}
	if want == present.Image && !grow {
		return p.layout.Flush(dir)
	}
	return p.growHead(ctx, dir, fs, want)
}

// Grow implements backends.Resizer.
func (p *Pool) Grow(ctx context.Context, id uuid.UUID, root *os.File) (err error) {
	defer backends.Wrap(&err, "grow dataset %s", id)
	f, err := p.findHead(id)
	if err != nil {
		return err
	}
	defer f.Close()
	imageSize, err := p.imageSize(f.Dir, headItem)
	if err != nil {
		return err
	}
	return p.growMounted(ctx, f.Dir, imageSize, root)
}

// growMounted grows the head, which is mounted at root.
func (p *Pool) growMounted(ctx context.Context, dir safefile.Dir, size int64, root *os.File) error {
	fs, _, err := p.inspect(dir, headItem)
	if err != nil {
		return err
	}
	image, err := dir.OpenFile(p.layout.Image(headItem), os.O_RDWR)
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
	g := mountedGrowth{image: image, device: info.Path, size: size}
	if fs == luks {
		if fs, g.inner, g.growInner, err = p.prepareGrowth(ctx, dir, info.Path); err != nil {
			return err
		}
	}
	if err := checkGrowable(fs); err != nil {
		return err
	}
	if err := p.enlarge(root, fs, g); err != nil {
		return err
	}
	return errors.Join(fsctl.Sync(root), image.Sync(), p.layout.Flush(dir))
}

// mountedGrowth is the growth of one mounted filesystem.
type mountedGrowth struct {
	image  *os.File
	device string // the image's loop device
	size   int64  // future length of the image
	inner  string // the device of the filesystem, if it is not the loop device
	// growInner makes the inner device fill the loop device, and returns the size of the inner device in bytes.
	growInner func() (int64, error)
}

// enlarge grows an image, its devices and the filesystem in it, which is mounted at root. If enlarge fails, it restores
// their former sizes, so that no later mount completes a refused growth. The image stays larger only in two cases: if
// the filesystem has begun to grow, or if the error is fsctl.ErrCapability, because the caller then continues with
// resize2fs.
func (p *Pool) enlarge(root *os.File, fs string, g mountedGrowth) error {
	oldSize, err := g.image.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if g.growInner == nil {
		g.inner, g.growInner = g.device, func() (int64, error) { return g.image.Seek(0, io.SeekEnd) }
	}
	before, err := sizeOfMounted(root, fs, g.inner)
	if err != nil {
		return err
	}
	if err = p.enlargeAll(root, fs, g); err == nil || errors.Is(err, fsctl.ErrCapability) {
		return err // after ErrCapability, GrowIdle continues with resize2fs
	}
	fsSize, sErr := sizeOfMounted(root, fs, g.inner)
	if sErr != nil || fsSize != before {
		return errors.Join(err, sErr)
	}
	undo := g.image.Truncate(oldSize)
	if undo == nil {
		undo = loopdev.SetCapacity(g.device)
	}
	if undo == nil {
		_, undo = g.growInner()
	}
	if undo != nil {
		return fmt.Errorf("%w (and its image does not have its previous size: %w)", err, undo)
	}
	return err
}

// enlargeAll grows the image, its devices and the filesystem. After a failure, the caller undoes the steps that
// succeeded.
func (p *Pool) enlargeAll(root *os.File, fs string, g mountedGrowth) error {
	if err := g.image.Truncate(g.size); err != nil {
		return err
	}
	p.step("resize.truncated")
	if err := loopdev.SetCapacity(g.device); err != nil {
		return err
	}
	p.step("resize.capacity")
	size, err := g.growInner()
	if err != nil {
		return err
	}
	return fsctl.Grow(root, fs, size)
}

// sizeOfMounted returns how many bytes of its device the filesystem mounted at root takes. ext4 keeps its superblock in
// the device's page cache, from which it is read. XFS does not, and reports its size by ioctl(2).
func sizeOfMounted(root *os.File, fs, device string) (int64, error) {
	if fs == mkfs.XFS {
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

// checkGrowable fails if this process cannot grow a filesystem. It is called before anything is changed.
func checkGrowable(fs string) error {
	if fs != mkfs.Ext4 {
		return nil
	}
	ok, err := fsctl.CanGrowExt4()
	if err == nil && !ok {
		err = dataset.Errorf(dataset.ErrUnsupported,
			"ext4 cannot grow while mounted, because this process lacks CAP_SYS_RESOURCE: stop the volume's "+
				"containers first")
	}
	return err
}

// growHead grows a head that is not in use. If the kernel grows the filesystem, every step is journalled and can be
// repeated. resize2fs works on a clone, because a crash during resize2fs can leave a broken filesystem.
func (p *Pool) growHead(ctx context.Context, dir safefile.Dir, fs string, size int64) error {
	inPlace := true
	if fs == mkfs.Ext4 || fs == luks {
		var err error
		if inPlace, err = fsctl.CanGrowExt4(); err != nil {
			return err
		}
	}
	if inPlace {
		if err := p.unshare(ctx, dir); errors.Is(err, loopdev.ErrAttached) {
			return dataset.Errorf(dataset.ErrInUse, "%w", err)
		} else if err != nil {
			return err
		}
		if err := p.growIdle(ctx, dir, headItem, size); err != nil {
			return err
		}
		return p.layout.Flush(dir)
	}
	if _, err := run.LookPath("resize2fs"); err != nil && fs == mkfs.Ext4 {
		return dataset.Errorf(dataset.ErrUnsupported,
			"growing ext4 needs resize2fs here, because this process lacks CAP_SYS_RESOURCE (apt-get install "+
				"e2fsprogs)")
	}
	return p.exchangeHead(dir, headItem, func(*os.File) error { return p.growIdle(ctx, dir, nextItem, size) })
}

// growIdle grows an item that nothing uses: its image and the filesystem in it. It mounts the filesystem first, so that
// it changes nothing if the filesystem cannot be mounted.
func (p *Pool) growIdle(ctx context.Context, dir safefile.Dir, item string, size int64) error {
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
	if fs == luks { // check the key before anything is changed
		if key, err = p.keyFor(ctx, dir, p.layout.Image(item)); err != nil {
			return err
		}
	}
	path := dir.Path(p.layout.Image(item))
	if fs == luks {
		return errors.Join(p.growInContainer(ctx, dir, mountedGrowth{image: image, size: size}, key), image.Sync())
	}
	dev, err := p.openDevice(ctx, path)
	if err != nil {
		return err
	}
	err = withMountedDevice(dev.Path, fs, func(root *os.File) error {
		return p.enlarge(root, fs, mountedGrowth{image: image, device: dev.Path, size: size})
	})
	err = errors.Join(err, dev.Close())
	// The mount has replayed the journal, which resize2fs demands.
	if errors.Is(err, fsctl.ErrCapability) {
		if err = waitDetached(ctx, image); err == nil {
			err = p.resize2fs(ctx, path, size)
		}
	}
	if err != nil {
		return err
	}
	return image.Sync()
}

const resizeTimeout = 90 * time.Second

// resize2fs grows an unmounted ext4. It passes -f because the last check of the filesystem is older than its last
// mount.
func (p *Pool) resize2fs(ctx context.Context, path string, size int64) error {
	_, err := p.backend.runner.Run(ctx, run.Command{
		Name: "resize2fs", Args: []string{"-f", path, strconv.FormatInt(size/1024, 10) + "K"}, Timeout: resizeTimeout,
	})
	return err
}

// growInContainer grows an encrypted image that nothing uses, and the filesystem in it.
func (p *Pool) growInContainer(ctx context.Context, dir safefile.Dir, g mountedGrowth, key []byte) error {
	dev, err := p.openDevice(ctx, g.image.Name())
	if err != nil {
		return err
	}
	defer dev.Close()
	open, err := p.openContainer(ctx, dir, dev.Path, key)
	if err != nil {
		return err
	}
	defer open.Close()
	fs, _, err := superblock(open)
	if err != nil {
		return fmt.Errorf("in the encrypted container: %w", err)
	}
	g.device, g.inner = dev.Path, open.Path()
	g.growInner = func() (int64, error) {
		return p.fillDevice(ctx, p.mapping(dir), open.Path(), key)
	}
	err = withMountedDevice(open.Path(), fs, func(root *os.File) error { return p.enlarge(root, fs, g) })
	if errors.Is(err, fsctl.ErrCapability) { // as in GrowIdle
		var size int64
		if size, err = open.Size(); err == nil {
			err = p.resize2fs(ctx, open.Path(), size)
		}
	}
	return err
}
