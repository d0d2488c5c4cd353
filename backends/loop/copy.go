package loop

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

// copier makes copies of datasets whose home is another pool, and turns datasets into copies.
type copier struct {
	*images
	shelf    *shelf.Shelf
	attacher *attacher
}

// Promote implements backends.Copier. The head becomes a second name of the image of the snapshot, or a clone of that
// image. Promote flushes once.
func (p *Pool) Promote(_ context.Context, ds, snapshot uuid.UUID) error {
	err := p.withDatasetOrCopy(ds, func(f *shelf.Folder) error {
		if f.State != backends.EntryCopy {
			return nil
		}
		dir := f.Dir
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

// commit makes a promoted copy a ready dataset. It is durable when it returns. Without the flush, a power cut could
// turn the dataset back into a copy, whose head would contain later writes.
func (cp *copier) commit(f *shelf.Folder) error {
	if _, err := f.Lstat(cp.layout.Image(headItem)); errors.Is(err, os.ErrNotExist) {
		return shelf.NoHeadError(f.ID)
	} else if err != nil {
		return err
	}
	return cp.shelf.Promote(f)
}

// promote makes a snapshot of a copy its head.
func (cp *copier) promote(dir safefile.Dir, item string) error {
	if err := cp.layout.Remove(dir, nextItem); err != nil {
		return err
	}
	shared, err := cp.Share(dir, nextItem, item)
	if err == nil && !shared {
		_, err = cp.layout.Clone(dir, nextItem, dir, item, false)
	}
	if err != nil {
		return err
	}
	cp.step("promote.cloned")
	if err := cp.VerifyClone(dir, item, nextItem); err != nil {
		return errors.Join(err, cp.layout.Remove(dir, nextItem))
	}
	if err := cp.layout.Rename(dir, nextItem, headItem); err != nil {
		return err
	}
	cp.step("promote.named")
	return cp.layout.Flush(dir)
}

// headIsKept reports whether a snapshot other than except has the same content as the head.
func (cp *copier) headIsKept(dir safefile.Dir, except uuid.UUID) (bool, error) {
	c, err := contentsOf(cp.layout, dir)
	if err != nil {
		return false, err
	}
	for _, item := range c.Items {
		if id, err := uuid.Parse(item); err != nil || id == except {
			continue
		}
		if unfinished, err := cp.Unfinished(dir, item); err != nil {
			return false, err
		} else if unfinished {
			continue
		}
		if same, err := cp.HeadEquals(dir, item); err != nil || same {
			return same, err
		}
	}
	return false, nil
}

// dropHead removes the head of a copy, if it has one. It fails with ErrConflict if no snapshot equals the head.
func (cp *copier) dropHead(dir safefile.Dir) error {
	if _, err := dir.Lstat(cp.layout.Image(headItem)); err != nil {
		return safefile.AbsentIsFine(err)
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
	return cp.layout.Remove(dir, headItem)
}

// dropRelated prepares the deletion of a snapshot of a copy. It removes the received part of the snapshot. If the head
// has the content of this snapshot and of no other, it also removes the head.
func (cp *copier) dropRelated(f *shelf.Folder, snapshot uuid.UUID) error {
	if f.State != backends.EntryCopy {
		return nil
	}
	dir := f.Dir
	if partial, err := readPartial(dir); err == nil && partial.Header.Snapshot == snapshot {
		if err := dropPartial(cp.layout, dir); err != nil {
			return err
		}
	}
	same, err := cp.HeadEquals(dir, snapshot.String())
	if errors.Is(err, os.ErrNotExist) || !same {
		return safefile.AbsentIsFine(err)
	}
	if kept, err := cp.headIsKept(dir, snapshot); err != nil || kept {
		return err
	}
	return cp.layout.Remove(dir, headItem)
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
	err := p.copier.demote(ctx, ds, keep.ID, func(dir safefile.Dir) error {
		if _, err := dir.Lstat(p.layout.Image(keep.ID.String())); err == nil {
			return p.layout.Flush(dir)
		}
		if _, err := dir.Lstat(p.layout.Image(headItem)); errors.Is(err, os.ErrNotExist) {
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
func (cp *copier) demote(ctx context.Context, ds, snapshot uuid.UUID, keep func(dir safefile.Dir) error) error {
	f, err := cp.shelf.FindDatasetOrCopy(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	dir := f.Dir
	if err := cp.attacher.Release(ctx, dir, false); err != nil {
		return err
	}
	if keep != nil {
		if err := keep(dir); err != nil {
			return backends.NoSpace(err)
		}
		cp.step("demote.kept")
	}
	if err := cp.checkDemotable(f, snapshot); err != nil {
		return err
	}
	if f.State != backends.EntryCopy {
		if err := cp.shelf.Demote(f); err != nil {
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
func (cp *copier) checkDemotable(f *shelf.Folder, snapshot uuid.UUID) error {
	dir := f.Dir
	if _, err := cp.Size(dir, snapshot.String()); errors.Is(err, os.ErrNotExist) {
		return dataset.Errorf(dataset.ErrNotFound, "it has no snapshot %s", snapshot)
	} else if err != nil || f.State == backends.EntryCopy {
		return err
	}
	same, err := cp.HeadEquals(dir, snapshot.String())
	if err == nil && !same {
		err = dataset.Errorf(dataset.ErrConflict, "it was written to after snapshot %s, and that data would be lost",
			snapshot)
	}
	return err
}
