package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
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
	return p.build(d, func(root, dir folder) (made, error) {
		from, err := p.openTemplate(ctx, root, t)
		if err != nil {
			return made{}, err
		}
		defer from.Close()
		image, err := p.layout.create(dir, next)
		if err != nil {
			return made{}, err
		}
		return made{item: next, size: t.size}, errors.Join(reflink.Clone(image, from), image.Close())
	})
}

// Clone implements backends.Pool: one shared image, one flush.
func (p *Pool) Clone(ctx context.Context, d dataset.Dataset, src dataset.Source,
	progress backends.Progress) (dataset.Size, error) {
	size, err := p.build(d, func(root, dir folder) (made, error) {
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
			if err := p.writeOut(dir, recordFile, d); err != nil {
				return made{}, err
			}
		}
		m, image := made{item: head, size: want}, have.imageFor(want)
		if grows := want > have.size && image > have.image; grows {
			m.item = next // until it has its size
		}
		if m.durable, err = p.layout.clone(dir, m.item, from, item, false); err != nil {
			return m, err
		}
		p.step("clone.shared")
		if m.item == next {
			err = p.growIdle(ctx, dir, next, image)
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
func (p *Pool) openSource(root folder, src dataset.Source) (folder, string, error) {
	find, item := p.find, head
	if src.Snapshot != uuid.Nil {
		find, item = p.findAny, src.Snapshot.String()
	}
	dir, _, err := find(root, src.Dataset)
	if err != nil {
		return folder{}, "", err
	}
	if _, err := dir.lstat(p.layout.image(item)); err != nil {
		_ = dir.Close()
		if errors.Is(err, os.ErrNotExist) && item != head {
			err = dataset.Errorf(dataset.ErrNotFound, "dataset %s has no snapshot %s", src.Dataset, src.Snapshot)
		}
		return folder{}, "", err
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
func (p *Pool) build(d dataset.Dataset, fill func(root, dir folder) (made, error)) (dataset.Size, error) {
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
	place, err := root.sub(incoming)
	if err != nil {
		return 0, err
	}
	defer place.Close()
	name := d.ID.String()
	if err := place.mkdir(name); err != nil {
		return 0, noSpace(err)
	}
	size, err := p.fill(root, place, d, fill)
	if err != nil {
		return 0, errors.Join(noSpace(err), p.destroy(place, name))
	}
	return size, nil
}

func (p *Pool) fill(root, place folder, d dataset.Dataset, fill func(root, dir folder) (made, error)) (dataset.Size,
	error) {
	dir, err := place.sub(d.ID.String())
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	p.step("create.begun")
	if err := p.writeOut(dir, recordFile, d); err != nil {
		return 0, err
	}
	p.step("create.recorded")
	m, err := fill(root, dir)
	if err != nil {
		return 0, err
	}
	p.step("create.filled")
	if m.item != head {
		if err := p.layout.rename(dir, m.item, head); err != nil {
			return 0, err
		}
		m.durable = false
	}
	p.step("create.named")
	if !m.durable {
		if err := p.layout.flush(dir); err != nil {
			return 0, err
		}
	}
	return m.size, nil
}

// built tells whether the dataset is there from an earlier try, and removes what is not
// whole. What is still incoming gets d as its record.
func (p *Pool) built(root folder, d dataset.Dataset) (dataset.Size, bool, error) {
	dir, place, err := p.find(root, d.ID)
	switch {
	case errors.Is(err, dataset.ErrNotFound):
		return 0, false, p.destroy(root, filepath.Join(incoming, d.ID.String()))
	case errors.Is(err, dataset.ErrCorrupt):
		return 0, false, dataset.Errorf(dataset.ErrExists, "%w", err)
	case err != nil:
		return 0, false, err
	}
	defer dir.Close()
	size, err := p.sizeOf(dir, head)
	if err != nil || place != incoming {
		return size.size, true, err
	}
	if err := p.sameKey(dir, head, d); err != nil {
		return 0, false, dataset.Errorf(dataset.ErrExists, "%s is there from an earlier try: %w", dir.Name(), err)
	}
	if roundUp(d.Size) < size.size { // a clone, whose source was larger than planned
		d.Size = size.size
	}
	if err := p.writeRecord(dir, recordFile, d); err != nil {
		return 0, false, noSpace(err)
	}
	if size, err = p.sizeOf(dir, head); err != nil {
		return 0, false, err
	}
	return size.size, true, p.layout.flush(dir)
}

// flushDir makes what was done to a directory durable, its last renaming too.
func (p *Pool) flushDir(root folder, name string) error {
	dir, err := root.sub(name)
	if err != nil {
		return err
	}
	return errors.Join(p.layout.flush(dir), dir.Close())
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
	if err == nil && place == copies {
		_, err = dir.lstat(p.layout.image(head))
		if errors.Is(err, os.ErrNotExist) {
			err = p.headless(id)
		}
	}
	if err == nil && place != datasets {
		err = root.rename(filepath.Join(place, id.String()), filepath.Join(datasets, id.String()))
	}
	// What is written to it from now on must not be found in a copy's head.
	if err == nil && place == copies {
		err = p.layout.flush(dir)
	}
	if err != nil {
		return fmt.Errorf("commit dataset %s: %w", id, err)
	}
	return nil
}

// WriteRecord implements backends.Pool.
func (p *Pool) WriteRecord(_ context.Context, d dataset.Dataset, sync bool) error {
	err := p.withinAny(d.ID, func(dir folder, _ string) error {
		if err := p.writeRecord(dir, recordFile, d); err != nil || !sync {
			return err
		}
		return p.layout.flush(dir)
	})
	if err != nil {
		return fmt.Errorf("write the record of dataset %s: %w", d.ID, err)
	}
	return nil
}
