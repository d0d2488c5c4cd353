package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
)

// begun tells whether a directory among the copies holds anything of one: what was made
// last before a crash may be empty.
func (p *Pool) begun(dir folder.Dir) (bool, error) {
	c, err := layout.ContentsOf(p.layout, dir)
	return len(c.Items)+len(c.Records)+len(c.Foreign) > 0, err
}

// Promote implements backends.Copier: one more name, or one shared image, and one flush.
func (p *Pool) Promote(_ context.Context, ds, snapshot uuid.UUID) error {
	err := p.withinAny(ds, func(dir folder.Dir, place string) error {
		if place != layout.Copies {
			return nil
		}
		item := snapshot.String()
		if _, err := p.imageSize(dir, item); errors.Is(err, os.ErrNotExist) {
			return dataset.Errorf(dataset.ErrNotFound, "the copy has no snapshot %s", snapshot)
		} else if err != nil {
			return err
		}
		if same, err := p.headIs(dir, item); err != nil {
			return err
		} else if same {
			return p.layout.Flush(dir) // an earlier try may have been cut short before its own
		}
		if err := p.dropHead(dir); err != nil {
			return err
		}
		return p.promote(dir, item)
	})
	if err != nil {
		return fmt.Errorf("promote the copy of dataset %s to snapshot %s: %w", ds, snapshot, err)
	}
	return nil
}

func (p *Pool) promote(dir folder.Dir, item string) error {
	if err := p.layout.Remove(dir, layout.Next); err != nil {
		return err
	}
	shared, err := p.share(dir, layout.Next, item)
	if err == nil && !shared {
		_, err = p.layout.Clone(dir, layout.Next, dir, item, false)
	}
	if err != nil {
		return err
	}
	p.step("promote.cloned")
	if err := p.same(dir, item, layout.Next); err != nil {
		return errors.Join(err, p.layout.Remove(dir, layout.Next))
	}
	if err := p.layout.Rename(dir, layout.Next, layout.Head); err != nil {
		return err
	}
	p.step("promote.named")
	return p.layout.Flush(dir)
}

// headIs tells whether there is a head, with the bytes of an item.
func (p *Pool) headIs(dir folder.Dir, item string) (bool, error) {
	if _, err := dir.Lstat(p.layout.Image(layout.Head)); err != nil {
		return false, folder.AbsentIsFine(err)
	}
	return p.equal(dir, item, layout.Head)
}

// kept tells whether a snapshot, other than one, has all that the head has.
func (p *Pool) kept(dir folder.Dir, but uuid.UUID) (bool, error) {
	c, err := layout.ContentsOf(p.layout, dir)
	if err != nil {
		return false, err
	}
	for _, item := range c.Items {
		if id, err := uuid.Parse(item); err != nil || id == but {
			continue
		}
		if waits, err := p.unfinished(dir, item); err != nil {
			return false, err
		} else if waits {
			continue
		}
		if same, err := p.headIs(dir, item); err != nil || same {
			return same, err
		}
	}
	return false, nil
}

// dropHead removes the head from a copy, if it has one.
func (p *Pool) dropHead(dir folder.Dir) error {
	if _, err := dir.Lstat(p.layout.Image(layout.Head)); err != nil {
		return folder.AbsentIsFine(err)
	}
	ok, err := p.kept(dir, uuid.Nil)
	if err != nil {
		return err
	}
	if !ok {
		return dataset.Errorf(dataset.ErrConflict,
			"the copy has a head with bytes that no snapshot of it has: it was left as it is (keep it as "+
				"superseded first)")
	}
	return p.layout.Remove(dir, layout.Head)
}

// forget removes what a copy has beside a snapshot that goes: the part of it that has
// come, and a head that nothing else has the bytes of.
func (p *Pool) forget(dir folder.Dir, place string, snapshot uuid.UUID) error {
	if place != layout.Copies {
		return nil
	}
	if have, err := readPartial(dir); err == nil && have.Snapshot == snapshot {
		if err := p.dropPartial(dir); err != nil {
			return err
		}
	}
	same, err := p.headIs(dir, snapshot.String())
	if errors.Is(err, os.ErrNotExist) || !same {
		return folder.AbsentIsFine(err)
	}
	if kept, err := p.kept(dir, snapshot); err != nil || kept {
		return err
	}
	return p.layout.Remove(dir, layout.Head)
}

// Demote implements backends.Copier.
func (p *Pool) Demote(ctx context.Context, ds, snapshot uuid.UUID) error {
	if err := p.demote(ctx, ds, snapshot, nil); err != nil {
		return fmt.Errorf("make dataset %s a copy with snapshot %s: %w", ds, snapshot, err)
	}
	return nil
}

// Supersede implements backends.Copier.
func (p *Pool) Supersede(ctx context.Context, ds uuid.UUID, keep dataset.Snapshot) error {
	err := p.demote(ctx, ds, keep.ID, func(dir folder.Dir) error {
		if _, err := dir.Lstat(p.layout.Image(keep.ID.String())); err == nil {
			return p.layout.Flush(dir)
		}
		if _, err := dir.Lstat(p.layout.Image(layout.Head)); errors.Is(err, os.ErrNotExist) {
			return dataset.Errorf(dataset.ErrConflict, "there is no head")
		}
		return p.keep(dir, keep)
	})
	if err != nil {
		return fmt.Errorf("keep the head of dataset %s as snapshot %s: %w", ds, keep.ID, err)
	}
	return nil
}

// demote makes a dataset, whose head is one of its snapshots after keep, a copy: it moves
// there with its head, which is removed then, so that it is never a dataset without one.
func (p *Pool) demote(ctx context.Context, ds, snapshot uuid.UUID, keep func(dir folder.Dir) error) error {
	root, err := p.open()
	if err != nil {
		return err
	}
	defer root.Close()
	defer p.claims.Use(ds)()
	dir, place, err := p.findAny(root, ds)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := p.idle(ctx, dir); err != nil {
		return err
	}
	if keep != nil {
		if err := keep(dir); err != nil {
			return noSpace(err)
		}
		p.step("demote.kept")
	}
	if err := p.demotable(dir, place, snapshot); err != nil {
		return err
	}
	if place != layout.Copies {
		err := p.back.Back(func() error {
			return root.Rename(filepath.Join(place, ds.String()), filepath.Join(layout.Copies, ds.String()))
		})
		if err != nil {
			return err
		}
		if err := p.layout.Flush(dir); err != nil {
			return err
		}
		p.step("demote.moved")
	}
	if err := p.dropHead(dir); err != nil {
		return err
	}
	p.step("demote.dropped")
	return p.layout.Flush(dir)
}

func (p *Pool) demotable(dir folder.Dir, place string, snapshot uuid.UUID) error {
	if _, err := p.imageSize(dir, snapshot.String()); errors.Is(err, os.ErrNotExist) {
		return dataset.Errorf(dataset.ErrNotFound, "it has no snapshot %s", snapshot)
	} else if err != nil || place == layout.Copies {
		return err
	}
	same, err := p.headIs(dir, snapshot.String())
	if err == nil && !same {
		err = dataset.Errorf(dataset.ErrConflict, "it was written to after snapshot %s, and that would be lost",
			snapshot)
	}
	return err
}

// Idle implements backends.Idler.
func (p *Pool) Idle(ctx context.Context, id uuid.UUID) error {
	err := p.within(id, func(dir folder.Dir) error { return p.idle(ctx, dir) })
	if err != nil {
		return fmt.Errorf("dataset %s: %w", id, err)
	}
	return nil
}
