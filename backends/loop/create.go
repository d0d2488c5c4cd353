package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/linux/reflink"
)

// Create implements backends.Pool: no fork but for the first of a kind, one flush.
func (p *Pool) Create(ctx context.Context, d dataset.Dataset) (dataset.Size, error) {
	t, err := p.templateFor(d)
	if err != nil {
		return 0, err
	}
	if d.Encryption != nil {
		return p.createEncrypted(ctx, d, t)
	}
	return p.build(d, func(root, dir folder.Dir) (made, error) {
		from, err := p.openTemplate(ctx, root, t)
		if err != nil {
			return made{}, err
		}
		defer from.Close()
		image, err := p.layout.Create(dir, layout.Next)
		if err != nil {
			return made{}, err
		}
		return made{item: layout.Next, size: t.size}, errors.Join(reflink.Clone(image, from), image.Close())
	})
}

// Clone implements backends.Pool: one shared image, one flush.
func (p *Pool) Clone(ctx context.Context, d dataset.Dataset, src dataset.Source,
	progress backends.Progress) (dataset.Size, error) {
	size, err := p.build(d, func(root, dir folder.Dir) (made, error) {
		defer p.claims.Use(src.Dataset)()
		from, item, err := p.openSource(root, src)
		if err != nil {
			return made{}, err
		}
		defer from.Close()
		if err := p.sameKey(from, item, d); err != nil {
			return made{}, err
		}
		have, err := p.sizeOf(from, item)
		if err != nil {
			return made{}, err
		}
		want := max(roundUp(d.Size), have.size)
		if err := mkfs.CheckMax(want); err != nil && want > have.size {
			return made{}, err
		}
		if want != d.Size { // the record says how large the head is: see sizeOf
			d.Size = want
			if err := p.records.WriteNew(dir, layout.RecordFile, d); err != nil {
				return made{}, err
			}
		}
		m, image := made{item: layout.Head, size: want}, have.imageFor(want)
		if grows := want > have.size && image > have.image; grows {
			m.item = layout.Next // until it has its size
		}
		if m.durable, err = p.layout.Clone(dir, m.item, from, item, false); err != nil {
			return m, err
		}
		p.step("clone.shared")
		if m.item == layout.Next {
			err = p.growIdle(ctx, dir, layout.Next, image)
		}
		return m, err
	})
	if err != nil {
		return 0, err
	}
	if progress != nil {
		progress(int64(size), int64(size))
	}
	return size, nil
}

// openSource opens the directory that holds src and names the item in it.
func (p *Pool) openSource(root folder.Dir, src dataset.Source) (folder.Dir, string, error) {
	find, item := p.find, layout.Head
	if src.Snapshot != uuid.Nil {
		find, item = p.findAny, src.Snapshot.String()
	}
	dir, _, err := find(root, src.Dataset)
	if err != nil {
		return folder.Dir{}, "", err
	}
	if _, err := dir.Lstat(p.layout.Image(item)); err != nil {
		_ = dir.Close()
		if errors.Is(err, os.ErrNotExist) && item != layout.Head {
			err = dataset.Errorf(dataset.ErrNotFound, "dataset %s has no snapshot %s", src.Dataset, src.Snapshot)
		}
		return folder.Dir{}, "", err
	}
	return dir, item, nil
}

// made is the item that became an incoming dataset's bytes: next, or the head itself where
// that was made in one step.
type made struct {
	item    string
	size    dataset.Size
	durable bool // with all that was done before it
}

// build makes an incoming dataset. Its head gets its name last and is whole then: what
// is incoming without a head is worthless, and made anew.
func (p *Pool) build(d dataset.Dataset, fill func(root, dir folder.Dir) (made, error)) (dataset.Size, error) {
	root, err := p.open()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	defer p.claims.Use(d.ID)()
	if size, done, err := p.built(root, d); err != nil || done {
		return size, err
	}
	if err := p.room(root); err != nil {
		return 0, err
	}
	place, err := root.Sub(layout.Incoming)
	if err != nil {
		return 0, err
	}
	defer place.Close()
	name := d.ID.String()
	if err := place.Mkdir(name); err != nil {
		return 0, noSpace(err)
	}
	size, err := p.fill(root, place, d, fill)
	if err != nil {
		return 0, errors.Join(noSpace(err), p.destroy(place, name))
	}
	return size, nil
}

func (p *Pool) fill(
	root, place folder.Dir,
	d dataset.Dataset,
	fill func(root, dir folder.Dir) (made, error),
) (dataset.Size,
	error) {
	dir, err := place.Sub(d.ID.String())
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	p.step("create.begun")
	if err := p.records.WriteNew(dir, layout.RecordFile, d); err != nil {
		return 0, err
	}
	p.step("create.recorded")
	m, err := fill(root, dir)
	if err != nil {
		return 0, err
	}
	p.step("create.filled")
	if m.item != layout.Head {
		if err := p.layout.Rename(dir, m.item, layout.Head); err != nil {
			return 0, err
		}
		m.durable = false
	}
	p.step("create.named")
	if !m.durable {
		if err := p.layout.Flush(dir); err != nil {
			return 0, err
		}
	}
	return m.size, nil
}

// built tells whether the dataset is there from an earlier try, and removes what is not
// whole. What is still incoming gets d as its record.
func (p *Pool) built(root folder.Dir, d dataset.Dataset) (dataset.Size, bool, error) {
	dir, place, err := p.find(root, d.ID)
	switch {
	case errors.Is(err, dataset.ErrNotFound):
		return 0, false, p.destroy(root, filepath.Join(layout.Incoming, d.ID.String()))
	case errors.Is(err, dataset.ErrCorrupt):
		return 0, false, dataset.Errorf(dataset.ErrExists, "%w", err)
	case err != nil:
		return 0, false, err
	}
	defer dir.Close()
	size, err := p.sizeOf(dir, layout.Head)
	if err != nil || place != layout.Incoming {
		return size.size, true, err
	}
	if err := p.sameKey(dir, layout.Head, d); err != nil {
		return 0, false, dataset.Errorf(dataset.ErrExists, "%s is there from an earlier try: %w", dir.Name(), err)
	}
	if roundUp(d.Size) < size.size { // a clone, whose source was larger than planned
		d.Size = size.size
	}
	if err := p.records.Write(dir, layout.RecordFile, d); err != nil {
		return 0, false, noSpace(err)
	}
	if size, err = p.sizeOf(dir, layout.Head); err != nil {
		return 0, false, err
	}
	return size.size, true, p.layout.Flush(dir)
}

// flushDir makes what was done to a directory durable, its last renaming too.
func (p *Pool) flushDir(root folder.Dir, name string) error {
	dir, err := root.Sub(name)
	if err != nil {
		return err
	}
	return errors.Join(p.layout.Flush(dir), dir.Close())
}

// Commit implements backends.Pool.
func (p *Pool) Commit(_ context.Context, id uuid.UUID) error {
	root, err := p.open()
	if err != nil {
		return fmt.Errorf("commit dataset %s: %w", id, err)
	}
	defer root.Close()
	defer p.claims.Use(id)()
	dir, place, err := p.findAny(root, id)
	if err == nil {
		defer dir.Close()
	}
	if err == nil && place == layout.Copies {
		_, err = dir.Lstat(p.layout.Image(layout.Head))
		if errors.Is(err, os.ErrNotExist) {
			err = p.headless(id)
		}
	}
	if err == nil && place != layout.Datasets {
		err = root.Rename(filepath.Join(place, id.String()), filepath.Join(layout.Datasets, id.String()))
	}
	// What is written to it from now on must not be found in a copy's head.
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
	err := p.withinAny(d.ID, func(dir folder.Dir, _ string) error {
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
