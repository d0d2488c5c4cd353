package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/safefile"
)

// Create implements backends.Pool. It starts a program only if the template does not exist yet, or if the dataset is
// encrypted. It flushes once.
func (p *Pool) Create(ctx context.Context, d dataset.Dataset) (dataset.Size, error) {
	t, err := p.templates.SpecFor(d)
	if err != nil {
		return 0, err
	}
	if d.Encryption != nil {
		return p.createEncrypted(ctx, d, t)
	}
	var made madeItem
	size, err := p.build(d, func(f *shelf.Folder) (_ madeItem, err error) {
		made, err = p.fromTemplate(ctx, f.Dir, t)
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
	size, err := p.build(d, func(f *shelf.Folder) (madeItem, error) {
		return p.fromSource(ctx, f.Dir, d, src)
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
func (p *Pool) fromTemplate(ctx context.Context, dir safefile.Dir, t templateSpec) (madeItem, error) {
	root, err := p.Shelf.Enter()
	if err != nil {
		return madeItem{}, err
	}
	defer root.Close()
	from, err := p.templates.Open(ctx, root, t)
	if err != nil {
		return madeItem{}, err
	}
	defer from.Close()
	image, err := p.layout.Create(dir, nextItem)
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
func (p *Pool) fromSource(ctx context.Context, dir safefile.Dir, d dataset.Dataset, src dataset.Source) (
	madeItem, error) {
	source, item, err := p.openSource(src)
	if err != nil {
		return madeItem{}, err
	}
	defer source.Close()
	from := source.Dir
	if err := p.sameKey(from, item, d); err != nil {
		return madeItem{}, err
	}
	size, err := p.sizeOf(from, item)
	if err != nil {
		return madeItem{}, err
	}
	want := max(d.Size, size.Size)
	if err := mkfs.CheckMax(want); err != nil && want > size.Size {
		return madeItem{}, err
	}
	if want != d.Size { // sizeOf reads the size from the record
		d.Size = want
		if err := p.records.WriteNew(dir, shelf.RecordFile, d); err != nil {
			return madeItem{}, err
		}
	}
	m, image := madeItem{item: headItem, size: want}, size.ImageFor(want)
	if grows := want > size.Size && image > size.Image; grows {
		m.item = nextItem // it becomes the head once it has its size
	}
	_, err = backends.Frozen(ctx, func() (err error) {
		m.durable, err = p.layout.Clone(dir, m.item, from, item, false)
		return err
	})
	if err != nil {
		return m, err
	}
	p.step("clone.shared")
	if m.item == nextItem {
		err = p.growIdle(ctx, dir, nextItem, image)
	}
	return m, err
}

// openSource opens the folder that contains src and returns the item of src.
func (p *Pool) openSource(src dataset.Source) (*shelf.Folder, string, error) {
	find, item := p.Shelf.FindDataset, headItem
	if src.Snapshot != uuid.Nil {
		find, item = p.Shelf.FindDatasetOrCopy, src.Snapshot.String()
	}
	f, err := find(src.Dataset)
	if err != nil {
		return nil, "", err
	}
	if _, err := f.Lstat(p.layout.Image(item)); err != nil {
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
func (p *Pool) build(d dataset.Dataset, fill func(f *shelf.Folder) (madeItem, error)) (dataset.Size, error) {
	f, complete, err := p.Shelf.Make(d.ID)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if complete {
		size, err := p.accept(f, d)
		return size, backends.NoSpace(err)
	}
	size, err := p.fill(f, d, fill)
	if err != nil {
		return 0, errors.Join(backends.NoSpace(err), p.Shelf.Discard(d.ID))
	}
	return size, nil
}

// fill makes the dataset's folder complete: its record, its item and the name of the head.
func (p *Pool) fill(f *shelf.Folder, d dataset.Dataset, fill func(f *shelf.Folder) (madeItem, error)) (
	dataset.Size, error) {
	if err := p.room(); err != nil {
		return 0, err
	}
	p.step("create.begun")
	if err := p.records.WriteNew(f.Dir, shelf.RecordFile, d); err != nil {
		return 0, err
	}
	p.Shelf.Wrote(f)
	p.step("create.recorded")
	m, err := fill(f)
	if err != nil {
		return 0, err
	}
	p.step("create.filled")
	if m.item != headItem {
		if err := p.layout.Rename(f.Dir, m.item, headItem); err != nil {
			return 0, err
		}
		m.durable = false
	}
	p.step("create.named")
	if !m.durable {
		if err := p.layout.Flush(f.Dir); err != nil {
			return 0, err
		}
	}
	return m.size, nil
}

// accept returns the size of a dataset that an earlier attempt completed. An incoming dataset gets d as its record.
func (p *Pool) accept(f *shelf.Folder, d dataset.Dataset) (dataset.Size, error) {
	size, err := p.sizeOf(f.Dir, headItem)
	if err != nil || f.State != backends.EntryIncoming {
		return size.Size, err
	}
	if err := p.sameKey(f.Dir, headItem, d); err != nil {
		return 0, dataset.Errorf(dataset.ErrExists, "%s exists from an earlier attempt: %w", f.Path(), err)
	}
	if d.Size < size.Size { // a clone whose source was larger than planned
		d.Size = size.Size
	}
	if err := p.records.Write(f.Dir, shelf.RecordFile, d); err != nil {
		return 0, err
	}
	if size, err = p.sizeOf(f.Dir, headItem); err != nil {
		return 0, err
	}
	return size.Size, p.layout.Flush(f.Dir)
}

// Commit implements backends.Pool.
func (p *Pool) Commit(_ context.Context, id uuid.UUID) error {
	p.newUsage.take(id)
	return p.CommitAny(id, p.commitCopy)
}

// WriteRecord implements backends.Pool.
func (p *Pool) WriteRecord(_ context.Context, d dataset.Dataset, sync bool) (err error) {
	defer backends.Wrap(&err, "write the record of dataset %s", d.ID)
	f, err := p.FindDatasetOrCopy(d.ID)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := p.records.Write(f.Dir, shelf.RecordFile, d); err != nil || !sync {
		return err
	}
	return p.layout.Flush(f.Dir)
}

// createEncrypted makes an encrypted dataset. It uses no template.
func (p *Pool) createEncrypted(ctx context.Context, d dataset.Dataset, t templateSpec) (dataset.Size, error) {
	if !p.info.Capabilities.Encryption {
		err := crypt.Available()
		if err == nil {
			err = dataset.Errorf(dataset.ErrUnsupported,
				"encryption was not available when the pool was opened (restart drover)")
		}
		return 0, err
	}
	key, err := p.keyOf(ctx, d)
	if err != nil {
		return 0, err
	}
	return p.build(d, func(f *shelf.Folder) (madeItem, error) {
		dir := f.Dir
		image, err := p.layout.Create(dir, nextItem)
		if err != nil {
			return madeItem{}, err
		}
		defer image.Close()
		if err := image.Truncate(imageFor(t.FS, t.Size, true)); err != nil {
			return madeItem{}, err
		}
		if err := p.encrypt(ctx, dir, d.Encryption.ID, key, t); err != nil {
			return madeItem{}, fmt.Errorf("create an encrypted image: %w", err)
		}
		return madeItem{item: nextItem, size: t.Size}, image.Sync()
	})
}

// encrypt makes a container in next, and the filesystem in the container.
func (p *Pool) encrypt(ctx context.Context, dir safefile.Dir, id uuid.UUID, key []byte, t templateSpec) error {
	dev, err := p.openDevice(ctx, dir.Path(p.layout.Image(nextItem)))
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := crypt.New(p.backend.runner).Format(ctx, dev.Path, id, key); err != nil {
		return err
	}
	p.step("create.encrypted")
	open, err := p.openContainer(ctx, dir, dev.Path, key)
	if err != nil {
		return err
	}
	defer open.Close()
	p.step("create.opened")
	// Each block that mkfs writes takes room, because an encrypted image shares none with a template. So mkfs leaves
	// the tables of inodes to the kernel, which initialises them later.
	if err := p.templates.Mkfs(ctx, t, open.Path(), "nodiscard,lazy_itable_init=1"); err != nil {
		return err
	}
	return withMountedDevice(open.Path(), t.FS, func(root *os.File) error {
		return mkfs.PrepareRoot(root, &t.Owner)
	})
}

// newUsage has the used bytes of datasets that were made from a template and are not committed yet. The agent asks for
// them once, to report them with the outcome of the create. Used would find the dataset again, and read from the disk
// what was just written there: with 64 concurrent creates, this cost a sixth of their rate (BenchmarkDurableCreates).
// Safe for concurrent use.
type newUsage struct {
	mu   sync.Mutex
	used map[uuid.UUID]dataset.Size
}

// maxNewUsage bounds the entries, because a create can be interrupted before its commit.
const maxNewUsage = 1024

// put adds the used bytes of a new dataset.
func (n *newUsage) put(id uuid.UUID, used dataset.Size) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.used == nil || len(n.used) >= maxNewUsage {
		n.used = map[uuid.UUID]dataset.Size{}
	}
	n.used[id] = used
}

// take removes an entry and returns it.
func (n *newUsage) take(id uuid.UUID) (used dataset.Size, known bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	used, known = n.used[id]
	delete(n.used, id)
	return used, known
}

// allocated returns the bytes of an image that are allocated on the disk, including shared ones.
func allocated(image *os.File) (dataset.Size, error) {
	const unit = 512 // bytes in a unit of st_blocks: stat(2)
	var st unix.Stat_t
	if err := unix.Fstat(int(image.Fd()), &st); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	return dataset.Size(st.Blocks) * unit, nil
}
