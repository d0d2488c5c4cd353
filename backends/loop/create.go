package loop

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/safefile"
)

// creator makes incoming datasets.
type creator struct {
	*images
	shelf      *shelf.Shelf
	room       func() error
	records    recordWriter
	containers *containers
	templates  *templates
	attacher   *attacher
	grower     *grower
}

// Create implements backends.Pool. It starts a program only if the template does not exist yet, or if the dataset is
// encrypted. It flushes once.
func (p *Pool) Create(ctx context.Context, d dataset.Dataset) (dataset.Size, error) {
	t, err := p.templates.SpecFor(d)
	if err != nil {
		return 0, err
	}
	if d.Encryption != nil {
		return p.creator.createEncrypted(ctx, d, t)
	}
	var made madeItem
	size, err := p.creator.build(d, func(f *shelf.Folder) (_ madeItem, err error) {
		made, err = p.creator.fromTemplate(ctx, f.Dir, t)
		return made, err
	})
	if err == nil && made.used > 0 {
		p.newUsage.put(d.ID, made.used)
	}
	return size, err
}

// Clone implements backends.Pool. It clones the image of the source, which copies no data, and flushes once.
func (p *Pool) Clone(ctx context.Context, d dataset.Dataset, src dataset.Source,
	progress backends.Progress) (dataset.Size, error) {
	size, err := p.creator.build(d, func(f *shelf.Folder) (madeItem, error) {
		return p.creator.fromSource(ctx, f.Dir, d, src)
	})
	if err != nil {
		return 0, err
	}
	if progress != nil {
		progress(int64(size), int64(size))
	}
	return size, nil
}

// fromTemplate makes the item next by cloning a template.
func (c *creator) fromTemplate(ctx context.Context, dir safefile.Dir, t templateSpec) (madeItem, error) {
	root, err := c.shelf.Enter()
	if err != nil {
		return madeItem{}, err
	}
	defer root.Close()
	from, err := c.templates.Open(ctx, root, t)
	if err != nil {
		return madeItem{}, err
	}
	defer from.Close()
	image, err := c.layout.Create(dir, nextItem)
	if err != nil {
		return madeItem{}, err
	}
	defer image.Close()
	if err := reflink.Clone(image, from); err != nil {
		return madeItem{}, err
	}
	used, err := allocated(image)
	return madeItem{item: nextItem, size: t.Size, used: used}, err
}

// fromSource clones the item of src for dataset d in dir. The clone grows if d is larger than src.
func (c *creator) fromSource(ctx context.Context, dir safefile.Dir, d dataset.Dataset, src dataset.Source) (
	madeItem, error) {
	source, item, err := c.openSource(src)
	if err != nil {
		return madeItem{}, err
	}
	defer source.Close()
	from := source.Dir
	if err := c.SameKey(from, item, d); err != nil {
		return madeItem{}, err
	}
	size, err := c.SizeOf(from, item)
	if err != nil {
		return madeItem{}, err
	}
	want := max(d.Size, size.Size)
	if err := mkfs.CheckMax(want); err != nil && want > size.Size {
		return madeItem{}, err
	}
	if want != d.Size { // images.SizeOf reads the size from the record
		d.Size = want
		if err := c.records.WriteNew(dir, shelf.RecordFile, d); err != nil {
			return madeItem{}, err
		}
	}
	m, image := madeItem{item: headItem, size: want}, size.ImageFor(want)
	if grows := want > size.Size && image > size.Image; grows {
		m.item = nextItem // it becomes the head once it has its size
	}
	_, err = backends.Frozen(ctx, func() (err error) {
		m.durable, err = c.layout.Clone(dir, m.item, from, item, false)
		return err
	})
	if err != nil {
		return m, err
	}
	c.step("clone.shared")
	if m.item == nextItem {
		err = c.grower.GrowIdle(ctx, dir, nextItem, image)
	}
	return m, err
}

// openSource opens the folder that contains src and returns the item of src.
func (c *creator) openSource(src dataset.Source) (*shelf.Folder, string, error) {
	find, item := c.shelf.FindDataset, headItem
	if src.Snapshot != uuid.Nil {
		find, item = c.shelf.FindDatasetOrCopy, src.Snapshot.String()
	}
	f, err := find(src.Dataset)
	if err != nil {
		return nil, "", err
	}
	if _, err := f.Lstat(c.layout.Image(item)); err != nil {
		if errors.Is(err, os.ErrNotExist) && item != headItem {
			err = dataset.Errorf(dataset.ErrNotFound, "dataset %s has no snapshot %s", src.Dataset, src.Snapshot)
		}
		return nil, "", errors.Join(err, f.Close())
	}
	return f, item, nil
}

// madeItem is the item that holds the bytes of an incoming dataset: next, or the head itself if the head was made in
// one step.
type madeItem struct {
	item    string
	size    dataset.Size
	durable bool         // the item is on the disk, and so are all earlier changes
	used    dataset.Size // the bytes that the item takes in the pool; 0 if that is not known
}

// build makes an incoming dataset. fill makes its item. The item gets the name of the head last, so a dataset with a
// head is complete. An incoming dataset without a head is discarded and made again.
func (c *creator) build(d dataset.Dataset, fill func(f *shelf.Folder) (madeItem, error)) (dataset.Size, error) {
	f, complete, err := c.shelf.Make(d.ID)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if complete {
		size, err := c.accept(f, d)
		return size, backends.NoSpace(err)
	}
	size, err := c.fill(f, d, fill)
	if err != nil {
		return 0, errors.Join(backends.NoSpace(err), c.shelf.Discard(d.ID))
	}
	return size, nil
}

// fill makes the dataset's folder complete: its record, its item and the name of the head.
func (c *creator) fill(f *shelf.Folder, d dataset.Dataset, fill func(f *shelf.Folder) (madeItem, error)) (
	dataset.Size, error) {
	if err := c.room(); err != nil {
		return 0, err
	}
	c.step("create.begun")
	if err := c.records.WriteNew(f.Dir, shelf.RecordFile, d); err != nil {
		return 0, err
	}
	c.shelf.Wrote(f)
	c.step("create.recorded")
	m, err := fill(f)
	if err != nil {
		return 0, err
	}
	c.step("create.filled")
	if m.item != headItem {
		if err := c.layout.Rename(f.Dir, m.item, headItem); err != nil {
			return 0, err
		}
		m.durable = false
	}
	c.step("create.named")
	if !m.durable {
		if err := c.layout.Flush(f.Dir); err != nil {
			return 0, err
		}
	}
	return m.size, nil
}

// accept returns the size of a dataset that an earlier attempt completed. An incoming dataset gets d as its record.
func (c *creator) accept(f *shelf.Folder, d dataset.Dataset) (dataset.Size, error) {
	size, err := c.SizeOf(f.Dir, headItem)
	if err != nil || f.State != backends.EntryIncoming {
		return size.Size, err
	}
	if err := c.SameKey(f.Dir, headItem, d); err != nil {
		return 0, dataset.Errorf(dataset.ErrExists, "%s exists from an earlier attempt: %w", f.Path(), err)
	}
	if d.Size < size.Size { // a clone whose source was larger than planned
		d.Size = size.Size
	}
	if err := c.records.Write(f.Dir, shelf.RecordFile, d); err != nil {
		return 0, err
	}
	if size, err = c.SizeOf(f.Dir, headItem); err != nil {
		return 0, err
	}
	return size.Size, c.layout.Flush(f.Dir)
}

// Commit implements backends.Pool.
func (p *Pool) Commit(_ context.Context, id uuid.UUID) error {
	p.newUsage.take(id)
	if err := p.shelf.CommitAny(id, p.copier.commit); err != nil {
		return fmt.Errorf("commit dataset %s: %w", id, err)
	}
	return nil
}

// WriteRecord implements backends.Pool.
func (p *Pool) WriteRecord(_ context.Context, d dataset.Dataset, sync bool) error {
	err := p.withDatasetOrCopy(d.ID, func(f *shelf.Folder) error {
		if err := p.records.Write(f.Dir, shelf.RecordFile, d); err != nil || !sync {
			return err
		}
		return p.layout.Flush(f.Dir)
	})
	if err != nil {
		return fmt.Errorf("write the record of dataset %s: %w", d.ID, err)
	}
	return nil
}

// createEncrypted makes an encrypted dataset. It uses no template.
func (c *creator) createEncrypted(ctx context.Context, d dataset.Dataset, t templateSpec) (dataset.Size, error) {
	if !c.containers.available {
		err := crypt.Available()
		if err == nil {
			err = dataset.Errorf(dataset.ErrUnsupported,
				"encryption was not available when the pool was opened (restart drover)")
		}
		return 0, err
	}
	key, err := c.containers.Key(ctx, d)
	if err != nil {
		return 0, err
	}
	return c.build(d, func(f *shelf.Folder) (madeItem, error) {
		dir := f.Dir
		image, err := c.layout.Create(dir, nextItem)
		if err != nil {
			return madeItem{}, err
		}
		defer image.Close()
		if err := image.Truncate(imageFor(t.FS, t.Size, true)); err != nil {
			return madeItem{}, err
		}
		if err := c.encrypt(ctx, dir, d.Encryption.ID, key, t); err != nil {
			return madeItem{}, fmt.Errorf("create an encrypted image: %w", err)
		}
		return madeItem{item: nextItem, size: t.Size}, image.Sync()
	})
}

// encrypt makes a container in next, and the filesystem in the container.
func (c *creator) encrypt(ctx context.Context, dir safefile.Dir, id uuid.UUID, key []byte, t templateSpec) error {
	dev, err := c.attacher.OpenDevice(ctx, dir.Path(c.layout.Image(nextItem)))
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := c.containers.Format(ctx, dev.Path, id, key); err != nil {
		return err
	}
	c.step("create.encrypted")
	open, err := c.containers.Open(ctx, dir, dev.Path, key)
	if err != nil {
		return err
	}
	defer open.Close()
	c.step("create.opened")
	// Each block that mkfs writes takes room, because an encrypted image shares none with a template. So mkfs leaves
	// the tables of inodes to the kernel, which initialises them later.
	if err := c.templates.Mkfs(ctx, t, open.Path(), "nodiscard,lazy_itable_init=1"); err != nil {
		return err
	}
	return withMountedDevice(open.Path(), t.FS, func(root *os.File) error {
		return mkfs.PrepareRoot(root, &t.Owner)
	})
}
