package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/attach"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/growth"
	"github.com/droverhq/drover/backends/loop/imagefile"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/backends/loop/template"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/linux/reflink"
)

// creator makes incoming datasets.
type creator struct {
	dir        *poolDir
	catalog    *catalog
	layout     layout.Layout
	records    layout.RecordWriter
	images     *imagefile.Images
	containers *attach.Containers
	remover    *remover
	templates  *template.Store
	attacher   *attach.Attacher
	grower     *growth.Grower
	step       func(string)
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
	size, err := p.creator.build(d, func(root, dir folder.Dir) (_ madeItem, err error) {
		made, err = p.creator.fromTemplate(ctx, root, dir, t)
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
	size, err := p.creator.build(d, func(root, dir folder.Dir) (madeItem, error) {
		return p.creator.fromSource(ctx, root, dir, d, src)
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
func (c *creator) fromTemplate(ctx context.Context, root, dir folder.Dir, t template.Spec) (madeItem, error) {
	from, err := c.templates.Open(ctx, root, t)
	if err != nil {
		return madeItem{}, err
	}
	defer from.Close()
	image, err := c.layout.Create(dir, layout.Next)
	if err != nil {
		return madeItem{}, err
	}
	defer image.Close()
	if err := reflink.Clone(image, from); err != nil {
		return madeItem{}, err
	}
	used, err := allocated(image)
	return madeItem{item: layout.Next, size: t.Size, used: used}, err
}

// fromSource clones the item of src for dataset d in dir. The clone grows if d is larger than src.
func (c *creator) fromSource(ctx context.Context, root, dir folder.Dir, d dataset.Dataset, src dataset.Source) (
	madeItem, error) {
	defer c.catalog.claims.Use(src.Dataset)()
	from, item, err := c.openSource(root, src)
	if err != nil {
		return madeItem{}, err
	}
	defer from.Close()
	if err := c.images.SameKey(from, item, d); err != nil {
		return madeItem{}, err
	}
	source, err := c.images.SizeOf(from, item)
	if err != nil {
		return madeItem{}, err
	}
	want := max(d.Size, source.Size)
	if err := mkfs.CheckMax(want); err != nil && want > source.Size {
		return madeItem{}, err
	}
	if want != d.Size { // images.SizeOf reads the size from the record
		d.Size = want
		if err := c.records.WriteNew(dir, layout.RecordFile, d); err != nil {
			return madeItem{}, err
		}
	}
	m, image := madeItem{item: layout.Head, size: want}, source.ImageFor(want)
	if grows := want > source.Size && image > source.Image; grows {
		m.item = layout.Next // it becomes the head once it has its size
	}
	_, err = backends.Frozen(ctx, func() (err error) {
		m.durable, err = c.layout.Clone(dir, m.item, from, item, false)
		return err
	})
	if err != nil {
		return m, err
	}
	c.step("clone.shared")
	if m.item == layout.Next {
		err = c.grower.GrowIdle(ctx, dir, layout.Next, image)
	}
	return m, err
}

// openSource opens the directory that contains src and returns the item of src.
func (c *creator) openSource(root folder.Dir, src dataset.Source) (folder.Dir, string, error) {
	find, item := c.catalog.find, layout.Head
	if src.Snapshot != uuid.Nil {
		find, item = c.catalog.findAny, src.Snapshot.String()
	}
	dir, _, err := find(root, src.Dataset)
	if err != nil {
		return folder.Dir{}, "", err
	}
	if _, err := dir.Lstat(c.layout.Image(item)); err != nil {
		_ = dir.Close()
		if errors.Is(err, os.ErrNotExist) && item != layout.Head {
			err = dataset.Errorf(dataset.ErrNotFound, "dataset %s has no snapshot %s", src.Dataset, src.Snapshot)
		}
		return folder.Dir{}, "", err
	}
	return dir, item, nil
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
func (c *creator) build(d dataset.Dataset, fill func(root, dir folder.Dir) (madeItem, error)) (dataset.Size, error) {
	root, err := c.dir.open()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	defer c.catalog.claims.Use(d.ID)()
	if size, done, err := c.findExisting(root, d); err != nil || done {
		return size, err
	}
	if err := c.dir.room(root); err != nil {
		return 0, err
	}
	place, err := root.Sub(layout.Incoming)
	if err != nil {
		return 0, err
	}
	defer place.Close()
	name := d.ID.String()
	if err := place.Mkdir(name); err != nil {
		return 0, backends.NoSpace(err)
	}
	size, err := c.fill(root, place, d, fill)
	if err != nil {
		return 0, errors.Join(backends.NoSpace(err), c.remover.destroy(place, name))
	}
	return size, nil
}

// fill makes the dataset's directory complete: its record, its item and the name of the head.
func (c *creator) fill(
	root, place folder.Dir,
	d dataset.Dataset,
	fill func(root, dir folder.Dir) (madeItem, error),
) (dataset.Size, error) {
	dir, err := place.Sub(d.ID.String())
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	c.step("create.begun")
	if err := c.records.WriteNew(dir, layout.RecordFile, d); err != nil {
		return 0, err
	}
	c.catalog.formats.Wrote(dir, d.ID)
	c.step("create.recorded")
	m, err := fill(root, dir)
	if err != nil {
		return 0, err
	}
	c.step("create.filled")
	if m.item != layout.Head {
		if err := c.layout.Rename(dir, m.item, layout.Head); err != nil {
			return 0, err
		}
		m.durable = false
	}
	c.step("create.named")
	if !m.durable {
		if err := c.layout.Flush(dir); err != nil {
			return 0, err
		}
	}
	return m.size, nil
}

// findExisting reports whether the dataset exists from an earlier attempt, and removes an incomplete one. An incoming
// dataset gets d as its record.
func (c *creator) findExisting(root folder.Dir, d dataset.Dataset) (dataset.Size, bool, error) {
	dir, place, err := c.catalog.find(root, d.ID)
	switch {
	case errors.Is(err, dataset.ErrNotFound):
		return 0, false, c.remover.destroy(root, filepath.Join(layout.Incoming, d.ID.String()))
	case errors.Is(err, dataset.ErrCorrupt):
		return 0, false, dataset.Errorf(dataset.ErrExists, "%w", err)
	case err != nil:
		return 0, false, err
	}
	defer dir.Close()
	size, err := c.images.SizeOf(dir, layout.Head)
	if err != nil || place != layout.Incoming {
		return size.Size, true, err
	}
	if err := c.images.SameKey(dir, layout.Head, d); err != nil {
		return 0, false, dataset.Errorf(dataset.ErrExists, "%s exists from an earlier attempt: %w", dir.Name(), err)
	}
	if d.Size < size.Size { // a clone whose source was larger than planned
		d.Size = size.Size
	}
	if err := c.records.Write(dir, layout.RecordFile, d); err != nil {
		return 0, false, backends.NoSpace(err)
	}
	if size, err = c.images.SizeOf(dir, layout.Head); err != nil {
		return 0, false, err
	}
	return size.Size, true, c.layout.Flush(dir)
}

// Commit implements backends.Pool.
func (p *Pool) Commit(_ context.Context, id uuid.UUID) error {
	root, err := p.dir.open()
	if err != nil {
		return fmt.Errorf("commit dataset %s: %w", id, err)
	}
	defer root.Close()
	defer p.catalog.claims.Use(id)()
	p.newUsage.take(id)
	dir, place, err := p.catalog.findAny(root, id)
	if err == nil {
		defer dir.Close()
	}
	if err == nil && place == layout.Copies {
		_, err = dir.Lstat(p.layout.Image(layout.Head))
		if errors.Is(err, os.ErrNotExist) {
			err = layout.NoHeadError(p.name, id)
		}
	}
	if err == nil && place != layout.Datasets {
		err = root.Rename(filepath.Join(place, id.String()), filepath.Join(layout.Datasets, id.String()))
	}
	// Commit of a promoted copy is durable when it returns. Without the flush, a power cut could turn the dataset back
	// into a copy, whose head would contain later writes.
	if err == nil && place == layout.Copies {
		err = p.layout.Flush(dir)
	}
	if err != nil {
		return fmt.Errorf("commit dataset %s: %w", id, err)
	}
	return nil
}

// WriteRecord implements backends.Pool.
func (p *Pool) WriteRecord(_ context.Context, d dataset.Dataset, sync bool) error {
	err := p.catalog.withDatasetOrCopy(d.ID, func(dir folder.Dir, _ string) error {
		if err := p.records.Write(dir, layout.RecordFile, d); err != nil || !sync {
			return err
		}
		return p.layout.Flush(dir)
	})
	if err != nil {
		return fmt.Errorf("write the record of dataset %s: %w", d.ID, err)
	}
	return nil
}

// createEncrypted makes an encrypted dataset. It uses no template.
func (c *creator) createEncrypted(ctx context.Context, d dataset.Dataset, t template.Spec) (dataset.Size, error) {
	if !c.containers.CanEncrypt() {
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
	return c.build(d, func(_, dir folder.Dir) (madeItem, error) {
		image, err := c.layout.Create(dir, layout.Next)
		if err != nil {
			return madeItem{}, err
		}
		defer image.Close()
		if err := image.Truncate(imagefile.ImageFor(t.FS, t.Size, true)); err != nil {
			return madeItem{}, err
		}
		if err := c.encrypt(ctx, dir, d.Encryption.ID, key, t); err != nil {
			return madeItem{}, fmt.Errorf("create an encrypted image: %w", err)
		}
		return madeItem{item: layout.Next, size: t.Size}, image.Sync()
	})
}

// encrypt makes a container in next, and the filesystem in the container.
func (c *creator) encrypt(ctx context.Context, dir folder.Dir, id uuid.UUID, key []byte, t template.Spec) error {
	dev, err := c.attacher.OpenDevice(ctx, dir.Path(c.layout.Image(layout.Next)))
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
	return attach.WithMountedDevice(open.Path(), t.FS, func(root *os.File) error {
		return mkfs.PrepareRoot(root, &t.Owner)
	})
}
