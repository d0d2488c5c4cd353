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
	"github.com/droverhq/drover/backends/loop/imagefile"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/backends/loop/transfer"
	"github.com/droverhq/drover/dataset"
)

// copier makes copies of datasets whose home is another pool, and turns datasets into copies.
type copier struct {
	pool     string // its name, for errors
	dir      *poolDir
	catalog  *catalog
	layout   layout.Layout
	records  layout.RecordWriter
	images   *imagefile.Images
	sharing  *imagefile.Sharing
	attacher *attach.Attacher
	step     func(string)
}

// Promote implements backends.Copier. The head becomes a second name of the image of the snapshot, or a clone of that
// image. Promote flushes once.
func (p *Pool) Promote(_ context.Context, ds, snapshot uuid.UUID) error {
	err := p.catalog.withDatasetOrCopy(ds, func(dir folder.Dir, place string) error {
		if place != layout.Copies {
			return nil
		}
		item := snapshot.String()
		if _, err := p.images.Size(dir, item); errors.Is(err, os.ErrNotExist) {
			return dataset.Errorf(dataset.ErrNotFound, "the copy has no snapshot %s", snapshot)
		} else if err != nil {
			return err
		}
		if same, err := p.images.HeadEquals(dir, item); err != nil {
			return err
		} else if same {
			return p.layout.Flush(dir) // an earlier attempt may have been interrupted before its flush
		}
		if err := p.copier.dropHead(dir); err != nil {
			return err
		}
		return p.copier.promote(dir, item)
	})
	if err != nil {
		return fmt.Errorf("promote the copy of dataset %s to snapshot %s: %w", ds, snapshot, err)
	}
	return nil
}

// promote makes a snapshot of a copy its head.
func (cp *copier) promote(dir folder.Dir, item string) error {
	if err := cp.layout.Remove(dir, layout.Next); err != nil {
		return err
	}
	shared, err := cp.sharing.Share(dir, layout.Next, item)
	if err == nil && !shared {
		_, err = cp.layout.Clone(dir, layout.Next, dir, item, false)
	}
	if err != nil {
		return err
	}
	cp.step("promote.cloned")
	if err := cp.images.VerifyClone(dir, item, layout.Next); err != nil {
		return errors.Join(err, cp.layout.Remove(dir, layout.Next))
	}
	if err := cp.layout.Rename(dir, layout.Next, layout.Head); err != nil {
		return err
	}
	cp.step("promote.named")
	return cp.layout.Flush(dir)
}

// headIsKept reports whether a snapshot other than except has the same content as the head.
func (cp *copier) headIsKept(dir folder.Dir, except uuid.UUID) (bool, error) {
	c, err := layout.ContentsOf(cp.layout, dir)
	if err != nil {
		return false, err
	}
	for _, item := range c.Items {
		if id, err := uuid.Parse(item); err != nil || id == except {
			continue
		}
		if unfinished, err := cp.images.Unfinished(dir, item); err != nil {
			return false, err
		} else if unfinished {
			continue
		}
		if same, err := cp.images.HeadEquals(dir, item); err != nil || same {
			return same, err
		}
	}
	return false, nil
}

// dropHead removes the head of a copy, if it has one. It fails with ErrConflict if no snapshot equals the head.
func (cp *copier) dropHead(dir folder.Dir) error {
	if _, err := dir.Lstat(cp.layout.Image(layout.Head)); err != nil {
		return folder.AbsentIsFine(err)
	}
	ok, err := cp.headIsKept(dir, uuid.Nil)
	if err != nil {
		return err
	}
	if !ok {
		return dataset.Errorf(dataset.ErrConflict,
			"the copy has a head with data that is in no snapshot of it: it was not changed (keep it as "+
				"superseded first)")
	}
	return cp.layout.Remove(dir, layout.Head)
}

// dropRelated prepares the deletion of a snapshot of a copy. It removes the received part of the snapshot. If the head
// has the content of this snapshot and of no other, it also removes the head.
func (cp *copier) dropRelated(dir folder.Dir, place string, snapshot uuid.UUID) error {
	if place != layout.Copies {
		return nil
	}
	if partial, err := transfer.ReadPartial(dir); err == nil && partial.Header.Snapshot == snapshot {
		if err := transfer.DropPartial(cp.layout, dir); err != nil {
			return err
		}
	}
	same, err := cp.images.HeadEquals(dir, snapshot.String())
	if errors.Is(err, os.ErrNotExist) || !same {
		return folder.AbsentIsFine(err)
	}
	if kept, err := cp.headIsKept(dir, snapshot); err != nil || kept {
		return err
	}
	return cp.layout.Remove(dir, layout.Head)
}

// Demote implements backends.Copier.
func (p *Pool) Demote(ctx context.Context, ds, snapshot uuid.UUID) error {
	if err := p.copier.demote(ctx, ds, snapshot, nil); err != nil {
		return fmt.Errorf("make dataset %s a copy with snapshot %s: %w", ds, snapshot, err)
	}
	return nil
}

// Supersede implements backends.Copier.
func (p *Pool) Supersede(ctx context.Context, ds uuid.UUID, keep dataset.Snapshot) error {
	err := p.copier.demote(ctx, ds, keep.ID, func(dir folder.Dir) error {
		if _, err := dir.Lstat(p.layout.Image(keep.ID.String())); err == nil {
			return p.layout.Flush(dir)
		}
		if _, err := dir.Lstat(p.layout.Image(layout.Head)); errors.Is(err, os.ErrNotExist) {
			return dataset.Errorf(dataset.ErrConflict, "it has no head")
		}
		return p.snapshots.keep(ctx, dir, keep)
	})
	if err != nil {
		return fmt.Errorf("keep the head of dataset %s as snapshot %s: %w", ds, keep.ID, err)
	}
	return nil
}

// demote calls keep, if it is not nil, and then turns the dataset into a copy. The head must equal the snapshot then.
// The dataset moves together with its head, and the head is removed afterwards, so that there is never a dataset
// without a head.
func (cp *copier) demote(ctx context.Context, ds, snapshot uuid.UUID, keep func(dir folder.Dir) error) error {
	root, err := cp.dir.open()
	if err != nil {
		return err
	}
	defer root.Close()
	defer cp.catalog.claims.Use(ds)()
	dir, place, err := cp.catalog.findAny(root, ds)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := cp.attacher.Release(ctx, dir, false); err != nil {
		return err
	}
	if keep != nil {
		if err := keep(dir); err != nil {
			return backends.NoSpace(err)
		}
		cp.step("demote.kept")
	}
	if err := cp.checkDemotable(dir, place, snapshot); err != nil {
		return err
	}
	if place != layout.Copies {
		err := cp.catalog.moves.MoveBack(func() error {
			return root.Rename(filepath.Join(place, ds.String()), filepath.Join(layout.Copies, ds.String()))
		})
		if err != nil {
			return err
		}
		if err := cp.layout.Flush(dir); err != nil {
			return err
		}
		cp.step("demote.moved")
	}
	if err := cp.dropHead(dir); err != nil {
		return err
	}
	cp.step("demote.dropped")
	return cp.layout.Flush(dir)
}

// checkDemotable fails unless the snapshot exists and the head equals it. It does not compare the head of a copy,
// because dropHead does.
func (cp *copier) checkDemotable(dir folder.Dir, place string, snapshot uuid.UUID) error {
	if _, err := cp.images.Size(dir, snapshot.String()); errors.Is(err, os.ErrNotExist) {
		return dataset.Errorf(dataset.ErrNotFound, "it has no snapshot %s", snapshot)
	} else if err != nil || place == layout.Copies {
		return err
	}
	same, err := cp.images.HeadEquals(dir, snapshot.String())
	if err == nil && !same {
		err = dataset.Errorf(dataset.ErrConflict, "it was written to after snapshot %s, and that data would be lost",
			snapshot)
	}
	return err
}

// open opens the directory of a copy, and makes it if it is absent.
func (cp *copier) open(root folder.Dir, d dataset.Dataset) (folder.Dir, error) {
	dir, place, err := cp.catalog.findAny(root, d.ID)
	if err == nil && place == layout.Copies {
		return dir, nil
	}
	if err == nil {
		_ = dir.Close()
		return folder.Dir{}, dataset.Errorf(dataset.ErrConflict, "pool %s contains the dataset itself, with a "+
			"head", cp.pool)
	}
	if !errors.Is(err, dataset.ErrNotFound) {
		return folder.Dir{}, err
	}
	if err := cp.dir.room(root); err != nil {
		return folder.Dir{}, err
	}
	name := filepath.Join(layout.Copies, d.ID.String())
	if err := root.Mkdir(name); err != nil && !errors.Is(err, os.ErrExist) {
		return folder.Dir{}, err
	}
	if dir, err = root.Sub(name); err != nil {
		return folder.Dir{}, err
	}
	cp.step("receive.begun")
	err = cp.records.Write(dir, layout.RecordFile, d)
	if err == nil {
		err = cp.layout.Flush(dir)
	}
	if err != nil {
		return folder.Dir{}, errors.Join(err, dir.Close())
	}
	cp.step("receive.recorded")
	return dir, nil
}
