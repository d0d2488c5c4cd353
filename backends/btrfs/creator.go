package btrfs

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/linux/mkfs"
)

// Create implements backends.Pool. If d has no size, the dataset has no limit, and Create returns 0.
func (p *Pool) Create(_ context.Context, d dataset.Dataset) (dataset.Size, error) {
	return p.make(d, func(f *shelf.Folder) (dataset.Size, error) {
		if err := backends.NoSpace(btrfsctl.Create(f.File, shelf.FirstHead)); err != nil {
			return 0, err
		}
		return d.Size, setOwner(f, d.Profile.Owner)
	})
}

// setOwner gives the root of a new head its owner and mode.
func setOwner(f *shelf.Folder, owner *dataset.Owner) error {
	root, err := f.Open(shelf.FirstHead)
	if err != nil {
		return err
	}
	return errors.Join(mkfs.SetOwner(root, owner), root.Close())
}

// Clone implements backends.Pool. The root directory keeps the owner and mode of the source.
func (p *Pool) Clone(ctx context.Context, d dataset.Dataset, src dataset.Source, _ backends.Progress) (dataset.Size,
	error) {
	return p.make(d, func(f *shelf.Folder) (dataset.Size, error) {
		from, err := p.Shelf.FindDatasetOrCopy(src.Dataset)
		if err != nil {
			return 0, err
		}
		defer from.Close()
		name, size, err := source(from, src)
		if err != nil {
			return 0, err
		}
		if size, err = p.cloneSize(ctx, from, name, size, d.Size); err != nil {
			return 0, err
		}
		_, err = backends.Frozen(ctx, func() error {
			return p.trees.Copy(ctx, from, name, f, shelf.FirstHead, false)
		})
		return size, err
	})
}

// source returns the tree that src names, and its size.
func source(f *shelf.Folder, src dataset.Source) (string, dataset.Size, error) {
	if src.Snapshot != uuid.Nil {
		s, err := f.ReadSnapshot(src.Snapshot)
		return s.Tree, s.Limit, err
	}
	if f.State == backends.EntryCopy {
		return "", 0, shelf.NoHeadError(f.ID)
	}
	h, err := f.Head()
	return h.Tree, h.Size, err
}

// cloneSize returns the size of a clone: the requested size, or the size of the cloned tree if that is larger. Without
// quotas it returns 0. It fails with dataset.ErrUnsupported if the cloned tree has no size and its usage is more than
// the requested size.
func (p *Pool) cloneSize(ctx context.Context, from *shelf.Folder, name string, size,
	want dataset.Size) (dataset.Size, error) {
	switch {
	case !p.quota.Enabled():
		return 0, nil // without quotas no size is enforced
	case size == 0 && want > 0:
		used, err := p.usedBy(ctx, from, name)
		if err == nil && used > want {
			err = tooLargeError("the source of the clone", used, want)
		}
		return want, err
	}
	return max(size, want), nil
}

// make makes a dataset and returns its size. fill puts the head into the folder of the dataset. If that fails, make
// removes the folder.
func (p *Pool) make(d dataset.Dataset, fill func(*shelf.Folder) (dataset.Size, error)) (dataset.Size, error) {
	if err := p.checkRequest(d); err != nil {
		return 0, err
	}
	return p.Shelf.Build(d, (*shelf.Folder).HeadSize, func(f *shelf.Folder) (dataset.Size, error) {
		p.step("btrfs.make.folder")
		if err := p.Room(); err != nil {
			return 0, err
		}
		size, err := fill(f)
		if err != nil {
			return 0, err
		}
		p.step("btrfs.make.filled")
		if err := p.finishHead(f, shelf.Head{Tree: shelf.FirstHead, Size: size}); err != nil {
			return 0, err
		}
		p.step("btrfs.make.settled")
		return size, nil
	})
}

// finishHead gives a new tree its limit, records its size, and makes both durable. A head without a size needs no
// record: FirstHead without a limit is the default of package shelf.
func (p *Pool) finishHead(f *shelf.Folder, h shelf.Head) error {
	dir, err := openSubvolume(f, h.Tree)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := Limit(dir, h.Size); err != nil {
		return err
	}
	if h.Size != 0 {
		if err := f.SetHead(h); err != nil {
			return err
		}
	}
	return p.trees.commit(dir)
}

// checkRequest fails if a dataset has properties that a subvolume cannot have.
func (p *Pool) checkRequest(d dataset.Dataset) error {
	switch {
	case d.Encryption != nil:
		return dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend btrfs cannot encrypt: use a pool of backend loop, lvm or zfs")
	case d.Size != 0 && !p.quota.Enabled():
		return dataset.Errorf(dataset.ErrUnsupported,
			"pool %s cannot enforce a size (requested: %s): the quotas of its filesystem are off (btrfs quota "+
				"enable %s, then restart drover)", p.name, d.Size, p.Shelf.Path())
	}
	err := shelf.CheckFilesystem(Name, d.Profile.Filesystem)
	if err == nil && d.Size != 0 {
		err = p.checkSize(d.Size)
	}
	return err
}
