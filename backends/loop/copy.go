package loop

import (
	"context"
	"errors"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

// Promote implements backends.Copier. The head becomes a second name of the image of the snapshot, or a clone of that
// image. Promote flushes once.
func (p *Pool) Promote(_ context.Context, ds, snapshot uuid.UUID) (err error) {
	defer backends.Wrap(&err, "promote the copy of dataset %s to snapshot %s", ds, snapshot)
	f, err := p.FindDatasetOrCopy(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	if f.State != backends.EntryCopy {
		return nil
	}
	dir, item := f.Dir, snapshot.String()
	if _, err := p.imageSize(dir, item); errors.Is(err, os.ErrNotExist) {
		return dataset.Errorf(dataset.ErrNotFound, "the copy has no snapshot %s", snapshot)
	} else if err != nil {
		return err
	}
	if same, err := p.headEquals(dir, item); err != nil {
		return err
	} else if same {
		return p.layout.Flush(dir) // an earlier attempt may have been interrupted before its flush
	}
	if err := p.dropHead(dir); err != nil {
		return err
	}
	return p.promote(dir, item)
}

// commitCopy makes a promoted copy a ready dataset. It is durable when it returns. Without the flush, a power cut could
// turn the dataset back into a copy, whose head would contain later writes.
func (p *Pool) commitCopy(f *shelf.Folder) error {
	if _, err := f.Lstat(p.layout.Image(headItem)); errors.Is(err, os.ErrNotExist) {
		return shelf.NoHeadError(f.ID)
	} else if err != nil {
		return err
	}
	return p.Shelf.Promote(f)
}

// promote makes a snapshot of a copy its head.
func (p *Pool) promote(dir safefile.Dir, item string) error {
	if err := p.layout.Remove(dir, nextItem); err != nil {
		return err
	}
	shared, err := p.share(dir, nextItem, item)
	if err == nil && !shared {
		_, err = p.layout.Clone(dir, nextItem, dir, item, false)
	}
	if err != nil {
		return err
	}
	p.step("promote.cloned")
	if err := p.verifyClone(dir, item, nextItem); err != nil {
		return errors.Join(err, p.layout.Remove(dir, nextItem))
	}
	if err := p.layout.Rename(dir, nextItem, headItem); err != nil {
		return err
	}
	p.step("promote.named")
	return p.layout.Flush(dir)
}

// headIsKept reports whether a snapshot other than except has the same content as the head.
func (p *Pool) headIsKept(dir safefile.Dir, except uuid.UUID) (bool, error) {
	c, err := contentsOf(p.layout, dir)
	if err != nil {
		return false, err
	}
	for _, item := range c.Items {
		if id, err := uuid.Parse(item); err != nil || id == except {
			continue
		}
		if unfinished, err := p.unfinished(dir, item); err != nil {
			return false, err
		} else if unfinished {
			continue
		}
		if same, err := p.headEquals(dir, item); err != nil || same {
			return same, err
		}
	}
	return false, nil
}

// dropHead removes the head of a copy, if it has one. It fails with ErrConflict if no snapshot equals the head.
func (p *Pool) dropHead(dir safefile.Dir) error {
	if _, err := dir.Lstat(p.layout.Image(headItem)); err != nil {
		return safefile.AbsentIsFine(err)
	}
	ok, err := p.headIsKept(dir, uuid.Nil)
	if err != nil {
		return err
	}
	if !ok {
		return dataset.Errorf(dataset.ErrConflict,
			"the copy has a head with data that is in no snapshot of it: it was not changed (keep it as "+
				"superseded first)")
	}
	return p.layout.Remove(dir, headItem)
}

// dropRelated prepares the deletion of a snapshot of a copy. It removes the received part of the snapshot. If the head
// has the content of this snapshot and of no other, it also removes the head.
func (p *Pool) dropRelated(f *shelf.Folder, snapshot uuid.UUID) error {
	if f.State != backends.EntryCopy {
		return nil
	}
	dir := f.Dir
	if partial, err := readPartial(dir); err == nil && partial.Header.Snapshot == snapshot {
		if err := dropPartial(p.layout, dir); err != nil {
			return err
		}
	}
	same, err := p.headEquals(dir, snapshot.String())
	if errors.Is(err, os.ErrNotExist) || !same {
		return safefile.AbsentIsFine(err)
	}
	if kept, err := p.headIsKept(dir, snapshot); err != nil || kept {
		return err
	}
	return p.layout.Remove(dir, headItem)
}

// Demote implements backends.Copier.
func (p *Pool) Demote(ctx context.Context, ds, snapshot uuid.UUID) (err error) {
	defer backends.Wrap(&err, "make dataset %s a copy with snapshot %s", ds, snapshot)
	return p.demote(ctx, ds, snapshot, nil)
}

// Supersede implements backends.Copier.
func (p *Pool) Supersede(ctx context.Context, ds uuid.UUID, keep dataset.Snapshot) (err error) {
	defer backends.Wrap(&err, "keep the head of dataset %s as snapshot %s", ds, keep.ID)
	return p.demote(ctx, ds, keep.ID, func(dir safefile.Dir) error {
		if _, err := dir.Lstat(p.layout.Image(keep.ID.String())); err == nil {
			return p.layout.Flush(dir)
		}
		if _, err := dir.Lstat(p.layout.Image(headItem)); errors.Is(err, os.ErrNotExist) {
			return dataset.Errorf(dataset.ErrConflict, "it has no head")
		}
		return p.keep(ctx, dir, keep)
	})
}

// demote calls keep, if it is not nil, and then turns the dataset into a copy. The head must equal the snapshot then.
// The dataset moves together with its head, and the head is removed afterwards, so that there is never a dataset
// without a head.
func (p *Pool) demote(ctx context.Context, ds, snapshot uuid.UUID, keep func(dir safefile.Dir) error) error {
	f, err := p.Shelf.FindDatasetOrCopy(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	dir := f.Dir
	if err := p.release(ctx, dir, false); err != nil {
		return err
	}
	if keep != nil {
		if err := keep(dir); err != nil {
			return err
		}
		p.step("demote.kept")
	}
	if err := p.checkDemotable(f, snapshot); err != nil {
		return err
	}
	if f.State != backends.EntryCopy {
		if err := p.Shelf.Demote(f); err != nil {
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

// checkDemotable fails unless the snapshot exists and the head equals it. It does not compare the head of a copy,
// because dropHead does.
func (p *Pool) checkDemotable(f *shelf.Folder, snapshot uuid.UUID) error {
	dir := f.Dir
	if _, err := p.imageSize(dir, snapshot.String()); errors.Is(err, os.ErrNotExist) {
		return dataset.Errorf(dataset.ErrNotFound, "it has no snapshot %s", snapshot)
	} else if err != nil || f.State == backends.EntryCopy {
		return err
	}
	same, err := p.headEquals(dir, snapshot.String())
	if err == nil && !same {
		err = dataset.Errorf(dataset.ErrConflict, "it was written to after snapshot %s, and that data would be lost",
			snapshot)
	}
	return err
}
