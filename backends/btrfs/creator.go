package btrfs

import (
	"context"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
)

// creator makes datasets.
type creator struct {
	pool  string // its name, for errors
	shelf *shelf.Shelf
	quota *quota
	sizes *sizes
	space *space
	trees *subvolumes
	step  func(string)
}

// Create implements backends.Pool. If d has no size, the dataset has no limit, and Create returns 0.
func (p *Pool) Create(_ context.Context, d dataset.Dataset) (dataset.Size, error) {
	return p.creator.make(d, func(f *shelf.Folder) (dataset.Size, error) {
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
	defer root.Close()
	mode := uint32(0o755)
	if owner != nil {
		if err := root.Chown(int(owner.UID), int(owner.GID)); err != nil {
			return err
		}
		if owner.Mode != nil {
			mode = *owner.Mode
		}
	}
	return unix.Fchmod(int(root.Fd()), mode)
}

// Clone implements backends.Pool. The root directory keeps the owner and mode of the source.
func (p *Pool) Clone(ctx context.Context, d dataset.Dataset, src dataset.Source, _ backends.Progress) (dataset.Size,
	error) {
	return p.creator.make(d, func(f *shelf.Folder) (dataset.Size, error) {
		from, err := p.shelf.FindDatasetOrCopy(src.Dataset)
		if err != nil {
			return 0, err
		}
		defer from.Close()
		name, size, err := source(from, src)
		if err != nil {
			return 0, err
		}
		if size, err = p.creator.cloneSize(ctx, from, name, size, d.Size); err != nil {
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
func (c *creator) cloneSize(ctx context.Context, from *shelf.Folder, name string, size,
	want dataset.Size) (dataset.Size, error) {
	switch {
	case !c.quota.Enabled():
		return 0, nil // without quotas no size is enforced
	case size == 0 && want > 0:
		used, err := c.sizes.used(ctx, from, name)
		if err == nil && used > want {
			err = tooLargeError("the source of the clone", used, want)
		}
		return want, err
	}
	return max(size, want), nil
}

// make makes a dataset and returns its size. fill puts the head into the folder of the dataset. If that fails, make
// removes the folder.
func (c *creator) make(d dataset.Dataset, fill func(*shelf.Folder) (dataset.Size, error)) (dataset.Size, error) {
	if err := c.checkRequest(d); err != nil {
		return 0, err
	}
	return c.shelf.Build(d, (*shelf.Folder).HeadSize, func(f *shelf.Folder) (dataset.Size, error) {
		c.step("btrfs.make.folder")
		if err := c.space.room(); err != nil {
			return 0, err
		}
		size, err := fill(f)
		if err != nil {
			return 0, err
		}
		c.step("btrfs.make.filled")
		if err := c.finishHead(f, shelf.Head{Tree: shelf.FirstHead, Size: size}); err != nil {
			return 0, err
		}
		c.step("btrfs.make.settled")
		return size, nil
	})
}

// finishHead gives a new tree its limit, records its size, and makes both durable. A head without a size needs no
// record: FirstHead without a limit is the default of package shelf.
func (c *creator) finishHead(f *shelf.Folder, h shelf.Head) error {
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
	return c.space.commit(dir)
}

// checkRequest fails if a dataset has properties that a subvolume cannot have.
func (c *creator) checkRequest(d dataset.Dataset) error {
	fs := d.Profile.Filesystem
	switch {
	case d.Encryption != nil:
		return dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend btrfs cannot encrypt: use a pool of backend loop, lvm or zfs")
	case fs.Type != "":
		return dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend btrfs creates no filesystem (requested: %s): omit it, or use a pool of backend "+
				"loop", fs.Type)
	case len(fs.Mount) > 0:
		return dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend btrfs has no mount options for a single volume (requested: %s): omit them, or use "+
				"a pool of backend loop", dataset.FormatChoices(fs.Mount))
	case d.Size == 0:
		return nil
	case !c.quota.Enabled():
		return dataset.Errorf(dataset.ErrUnsupported,
			"pool %s cannot enforce a size (requested: %s): the quotas of its filesystem are off (btrfs quota "+
				"enable %s, then restart drover)", c.pool, d.Size, c.shelf.Path())
	}
	return c.space.checkSize(d.Size)
}
