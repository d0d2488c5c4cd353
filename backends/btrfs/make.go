package btrfs

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
)

// minSize leaves room for what btrfs reserves for its own trees while it writes.
const minSize = 16 * dataset.MiB

// Best implements backends.BoundedKind.
func (*Backend) Best() dataset.Capabilities {
	return dataset.Capabilities{
		EnforcesSize: true, OnlineGrow: true, Shrink: true, CountsWritten: true, KnowsUsed: true,
		InstantSnapshot: true, ConstantSnapshot: true, CloneIndependent: true, Delta: true,
	}
}

// Takes implements backends.BoundedKind.
func (*Backend) Takes(_ string, size dataset.Size) error {
	if size < minSize {
		return dataset.Errorf(dataset.ErrUnsupported, "%s is too small for a subvolume (at least %s)", size, minSize)
	}
	return nil
}

// Create implements backends.Pool. Without a size there is no limit, and 0 is returned.
func (p *Pool) Create(_ context.Context, d dataset.Dataset) (dataset.Size, error) {
	return p.make(d, func(f *shelf.Folder) (dataset.Size, error) {
		dir, err := f.Open(".")
		if err != nil {
			return 0, err
		}
		defer dir.Close()
		if err := noSpace(btrfsctl.Create(dir, shelf.FirstHead)); err != nil {
			return 0, err
		}
		return d.Size, own(f, d.Profile.Owner)
	})
}

// own gives the root of a new head its owner and mode.
func own(f *shelf.Folder, owner *dataset.Owner) error {
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

// Clone implements backends.Pool. The root keeps the owner and mode of the source's.
func (p *Pool) Clone(ctx context.Context, d dataset.Dataset, src dataset.Source, _ backends.Progress) (dataset.Size,
	error) {
	return p.make(d, func(f *shelf.Folder) (dataset.Size, error) {
		from, err := p.shelf.FindAny(src.Dataset)
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
		return size, p.copyTree(ctx, from, name, f, shelf.FirstHead, false)
	})
}

// source returns the tree that src names, and its size.
func source(f *shelf.Folder, src dataset.Source) (string, dataset.Size, error) {
	if src.Snapshot != uuid.Nil {
		s, err := f.Kept(src.Snapshot)
		return s.Tree, s.Limit, err
	}
	if f.State == backends.EntryCopy {
		return "", 0, f.NoHead()
	}
	h, err := f.Head()
	return h.Tree, h.Size, err
}

// cloneSize returns the size of a clone of a tree that has a size, where want is asked for: the
// larger one of the two.
func (p *Pool) cloneSize(ctx context.Context, from *shelf.Folder, name string, size,
	want dataset.Size) (dataset.Size, error) {
	switch {
	case p.quota == btrfsctl.QuotaNone:
		return 0, nil // the former limits do not apply here
	case size == 0 && want > 0:
		used, err := p.used(ctx, from, name)
		if err == nil && used > want {
			err = over("what is to be cloned", used, want)
		}
		return want, err
	}
	return max(size, want), nil
}

// make makes a dataset whose head fill puts into its folder, and returns its size. What
// fails is taken back.
func (p *Pool) make(d dataset.Dataset, fill func(*shelf.Folder) (dataset.Size, error)) (dataset.Size, error) {
	if err := p.refuse(d); err != nil {
		return 0, err
	}
	f, whole, err := p.shelf.Make(d.ID)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if whole {
		h, err := f.Head()
		if err != nil {
			return 0, err
		}
		return h.Size, p.shelf.Finish(f, d)
	}
	p.step("btrfs.make.folder")
	var size dataset.Size
	if err = p.room(); err == nil {
		size, err = fill(f)
	}
	if err == nil {
		p.step("btrfs.make.filled")
		err = p.settle(f, shelf.Head{Tree: shelf.FirstHead, Size: size})
	}
	if err != nil {
		if dErr := p.shelf.Discard(d.ID); dErr != nil {
			return 0, fmt.Errorf("%w (and what was made of it stays: %v)", err, dErr)
		}
		return 0, err
	}
	p.step("btrfs.make.settled")
	return size, p.shelf.Finish(f, d)
}

// settle gives a new tree its limit, records it as the head with its size, and makes all of that durable.
func (p *Pool) settle(f *shelf.Folder, h shelf.Head) error {
	dir, err := open(f, h.Tree)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := limit(dir, h.Size); err != nil {
		return err
	}
	if h.Size != 0 {
		if err := f.SetHead(h); err != nil {
			return err
		}
	}
	return p.commit(dir)
}

// refuse refuses properties that a subvolume cannot keep.
func (p *Pool) refuse(d dataset.Dataset) error {
	fs := d.Profile.Filesystem
	switch {
	case d.Encryption != nil:
		return dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend btrfs encrypts nothing: use a pool of backend loop or lvm")
	case fs.Type != "":
		return dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend btrfs makes no filesystem (asked for %s): leave it out, or use a pool of "+
				"backend loop", fs.Type)
	case len(fs.Mount) > 0:
		return dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend btrfs has no mount options for one volume (asked for %s): leave them out, or "+
				"use a pool of backend loop", dataset.Have(fs.Mount))
	case d.Size == 0:
		return nil
	case p.quota == btrfsctl.QuotaNone:
		return dataset.Errorf(dataset.ErrUnsupported,
			"pool %s cannot enforce a size (asked for %s): the quotas of its filesystem are off (btrfs "+
				"quota enable %s, then restart drover)", p.name, d.Size, p.shelf.Path())
	}
	return p.fits(d.Size)
}

// fits refuses a size that no dataset here can have.
func (p *Pool) fits(size dataset.Size) error {
	st, err := p.shelf.Space()
	switch {
	case err != nil:
		return err
	case size > st.Size:
		return dataset.Errorf(dataset.ErrUnsupported, "%s is more than the whole of pool %s (%s)", size, p.name,
			st.Size.Human())
	}
	return (*Backend)(nil).Takes("", size)
}
