package dir

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
)

// minSize leaves room for the root directory and a file.
const minSize = dataset.MiB

// Create implements backends.Pool. If d has no size, the dataset has no limit, and Create returns 0.
func (p *Pool) Create(_ context.Context, d dataset.Dataset) (dataset.Size, error) {
	return p.make(d, func(f *shelf.Folder) (shelf.Head, error) {
		return p.makeRoot(f, d.Size, d.Profile.Owner)
	})
}

// Clone implements backends.Pool. The root directory keeps the owner and mode of the source.
func (p *Pool) Clone(ctx context.Context, d dataset.Dataset, src dataset.Source,
	progress backends.Progress) (dataset.Size, error) {
	return p.make(d, func(f *shelf.Folder) (shelf.Head, error) {
		from, err := p.Shelf.FindDataset(src.Dataset)
		if err != nil {
			return shelf.Head{}, err
		}
		defer from.Close()
		name, size, err := p.source(ctx, from, src)
		if err != nil {
			return shelf.Head{}, err
		}
		size = max(size, d.Size)
		if p.projects.advice != "" { // the filesystem does not enforce the limits of the source
			size = 0
		}
		h, err := p.copyHead(ctx, from, name, f, shelf.Head{Tree: shelf.FirstHead, Size: size}, progress)
		if gone := p.checkSnapshot(src, name); gone != nil {
			return shelf.Head{}, fmt.Errorf("it was removed while it was copied: %w", gone)
		}
		return h, err
	})
}

// checkSnapshot fails unless the snapshot that src names, if any, is still in the pool, in the given tree. A removal
// takes the record or moves the folder before it removes files. So if both are there, the copy is complete.
func (p *Pool) checkSnapshot(src dataset.Source, tree string) error {
	if src.Snapshot == uuid.Nil {
		return nil
	}
	f, err := p.Shelf.FindDataset(src.Dataset)
	if err != nil {
		return err
	}
	defer f.Close()
	s, err := f.ReadSnapshot(src.Snapshot)
	if err == nil && s.Tree != tree {
		err = dataset.Errorf(dataset.ErrConflict, "a restore moved it to another tree")
	}
	return err
}

// source returns the tree that src names, and its size. A head must not be in use.
func (p *Pool) source(ctx context.Context, f *shelf.Folder, src dataset.Source) (string, dataset.Size, error) {
	if src.Snapshot != uuid.Nil {
		s, err := f.ReadSnapshot(src.Snapshot)
		return s.Tree, s.Limit, err
	}
	if err := p.checkIdle(ctx, f, "copied"); err != nil {
		return "", 0, err
	}
	h, err := f.Head()
	return h.Tree, h.Size, err
}

// make makes a dataset and returns its size. fill puts the head into the folder of the dataset. If fill fails, make
// removes the folder.
func (p *Pool) make(d dataset.Dataset, fill func(*shelf.Folder) (shelf.Head, error)) (dataset.Size, error) {
	if err := p.checkRequest(d); err != nil {
		return 0, err
	}
	return p.Shelf.Build(d, (*shelf.Folder).HeadSize, func(f *shelf.Folder) (dataset.Size, error) {
		p.step("dir.make.folder")
		if err := p.Room(); err != nil {
			return 0, err
		}
		h, err := fill(f)
		if err != nil {
			return 0, err
		}
		if p.projects.advice == "" {
			p.step("dir.make.filled")
			if err := f.WriteHead(h, false); err != nil { // durable with the record, in the same folder
				return 0, err
			}
		}
		p.step("dir.make.headed")
		return h.Size, nil
	})
}

// checkRequest returns dataset.ErrUnsupported if a request has a property that a directory cannot provide.
func (p *Pool) checkRequest(d dataset.Dataset) error {
	switch {
	case d.Encryption != nil:
		return dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend %s cannot encrypt: use a pool of backend loop, lvm or zfs", p.kind)
	case d.Size != 0 && p.projects.advice != "":
		return dataset.Errorf(dataset.ErrUnsupported,
			"this pool of backend %s cannot enforce a size (requested: %s): omit it, or use a pool of backend "+
				"loop (%s)", p.kind, d.Size, p.projects.advice)
	}
	err := shelf.CheckFilesystem(p.kind, d.Profile.Filesystem)
	if err == nil && d.Size != 0 {
		err = p.checkSize(d.Size)
	}
	return err
}
