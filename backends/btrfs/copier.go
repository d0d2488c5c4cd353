package btrfs

import (
	"context"
	"errors"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/dataset"
)

// dropHead removes the head of a copy, if it has one. If a crash interrupted a Supersede, dropHead completes it, and
// the head becomes the snapshot. Any other head is destroyed if it has the content of a snapshot. Otherwise dropHead
// fails with dataset.ErrConflict.
func (p *Pool) dropHead(ctx context.Context, f *shelf.Folder) error {
	h, err := f.Head()
	if err != nil {
		return err
	}
	if _, err := f.Lstat(h.Tree); errors.Is(err, os.ErrNotExist) {
		return shelf.SyncDir(f.Dir)
	}
	isSnapshot, err := f.MayBeSnapshot(h.Tree)
	if err != nil {
		return err
	}
	if isSnapshot {
		err = protect(f, h.Tree)
	} else {
		err = p.checkKept(ctx, f, h)
	}
	if err != nil {
		return err
	}
	if err := f.SetHead(shelf.Head{Tree: shelf.RestoredTree(uuid.New())}); err != nil {
		return err
	}
	p.step("btrfs.head.dropped")
	if isSnapshot {
		return nil
	}
	return p.trees.Destroy(ctx, f.Dir, h.Tree)
}

// checkKept fails with dataset.ErrConflict if the head of a copy contains data that is in no snapshot.
func (p *Pool) checkKept(ctx context.Context, f *shelf.Folder, h shelf.Head) error {
	if h.From != uuid.Nil {
		if _, err := f.ReadSnapshot(h.From); err == nil {
			return nil
		}
	}
	snapshots, err := f.Snapshots()
	if err != nil {
		return err
	}
	for _, s := range snapshots {
		if same, err := p.headEquals(ctx, f, h, s.ID); err != nil || same {
			return err
		}
	}
	return dataset.Errorf(dataset.ErrConflict,
		"the copy has a head with data that is in no snapshot of it: it was not changed (keep it as superseded first)")
}

// dropRelated prepares the deletion of a snapshot of a copy. It removes the received part of the snapshot, and the head
// if it was made from this snapshot.
func (p *Pool) dropRelated(ctx context.Context, f *shelf.Folder, snapshot uuid.UUID) error {
	if err := stream.DropOf(f.Dir, snapshot); err != nil {
		return err
	}
	h, err := f.Head()
	if err != nil {
		return err
	}
	// A later call completes an interrupted Supersede, which turns the head into that snapshot. The deleted snapshot
	// would reappear then, so the head must be removed too.
	keeping, err := f.IsTreeOf(h.Tree, snapshot)
	if err != nil || h.From != snapshot && !keeping {
		return err
	}
	return p.dropHead(ctx, f)
}

// Promote implements backends.Copier.
func (p *Pool) Promote(ctx context.Context, ds, snapshot uuid.UUID) (err error) {
	defer backends.Wrap(&err, "promote the copy of dataset %s to snapshot %s", ds, snapshot)
	f, err := p.FindDatasetOrCopy(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	if f.State != backends.EntryCopy {
		return nil
	}
	s, err := f.ReadSnapshot(snapshot)
	if err != nil {
		return err
	}
	h, err := f.Head()
	if err != nil {
		return err
	}
	if _, err := f.Lstat(h.Tree); err == nil && h.From == snapshot {
		return shelf.SyncDir(f.Dir)
	}
	if err := p.dropHead(ctx, f); err != nil {
		return err
	}
	newHead := shelf.Head{Tree: shelf.RestoredTree(uuid.New()), Size: s.Limit, From: snapshot}
	if err := p.fillHead(ctx, f, s, newHead); err != nil {
		return err
	}
	p.step("btrfs.promote.made")
	return f.SetHead(newHead)
}

// commitCopy makes a promoted copy a ready dataset.
func (p *Pool) commitCopy(f *shelf.Folder) error {
	h, err := f.Head()
	if err == nil {
		if _, err = f.Lstat(h.Tree); errors.Is(err, os.ErrNotExist) {
			err = shelf.NoHeadError(f.ID)
		}
	}
	if err == nil {
		err = stream.Drop(f.Dir)
	}
	if err == nil {
		err = p.Shelf.Promote(f)
	}
	return err
}

// Demote implements backends.Copier.
func (p *Pool) Demote(ctx context.Context, ds, snapshot uuid.UUID) (err error) {
	defer backends.Wrap(&err, "make dataset %s a copy with snapshot %s", ds, snapshot)
	return p.demote(ctx, ds, func(f *shelf.Folder) (uuid.UUID, error) {
		return snapshot, p.checkHead(ctx, f, snapshot)
	})
}

// checkHead fails with dataset.ErrConflict if the head in a folder does not have the content of a snapshot. The folder
// is that of a dataset, or that of a copy whose head an interrupted Demote did not remove.
func (p *Pool) checkHead(ctx context.Context, f *shelf.Folder, snapshot uuid.UUID) error {
	if _, err := f.ReadSnapshot(snapshot); err != nil {
		return err
	}
	h, err := f.Head()
	if err != nil {
		return err
	}
	if f.State == backends.EntryCopy {
		if _, err := f.Lstat(h.Tree); errors.Is(err, os.ErrNotExist) || h.From == snapshot {
			return nil
		}
	}
	same, err := p.headEquals(ctx, f, h, snapshot)
	if err == nil && !same {
		err = dataset.Errorf(dataset.ErrConflict, "it was written to after snapshot %s, and that data would be lost",
			snapshot)
	}
	return err
}

// Supersede implements backends.Copier. The head becomes the snapshot.
func (p *Pool) Supersede(ctx context.Context, ds uuid.UUID, keep dataset.Snapshot) (err error) {
	defer backends.Wrap(&err, "keep the head of dataset %s as snapshot %s", ds, keep.ID)
	return p.demote(ctx, ds, func(f *shelf.Folder) (is uuid.UUID, err error) {
		if err := p.checkHead(ctx, f, keep.ID); !errors.Is(err, dataset.ErrNotFound) {
			return keep.ID, err
		}
		h, err := f.Head()
		if err != nil {
			return is, err
		}
		if _, err := f.Lstat(h.Tree); errors.Is(err, os.ErrNotExist) {
			return is, dataset.Errorf(dataset.ErrConflict, "it has no head")
		}
		if err := flushTree(f, h.Tree); err != nil {
			return is, err
		}
		return is, f.WriteSnapshot(shelf.SnapshotRecord{Snapshot: keep, Tree: h.Tree, Limit: h.Size})
	})
}

// demote calls keep and then turns the dataset into a copy. The dataset moves together with its head, and the head is
// removed afterwards, so that there is never a dataset without a head. keep returns the snapshot with the content of
// the head. If keep has recorded that the head becomes a snapshot, it returns uuid.Nil instead.
func (p *Pool) demote(ctx context.Context, ds uuid.UUID, keep func(*shelf.Folder) (uuid.UUID, error)) error {
	f, err := p.Shelf.FindDatasetOrCopy(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := p.uses.CheckIdle(ctx, ds, f.Path()); err != nil {
		return err
	}
	if err := f.Sweep(); err != nil {
		return err
	}
	snapshot, err := keep(f)
	if err != nil {
		return backends.NoSpace(err)
	}
	p.step("btrfs.demote.kept")
	if f.State != backends.EntryCopy {
		h, err := f.Head()
		if err != nil {
			return err
		}
		// If the head was never compared with a snapshot, From is not set. If it was written to since the last
		// comparison, From names another snapshot.
		if h.From != snapshot {
			h.From = snapshot
			if err := f.SetHead(h); err != nil {
				return err
			}
		}
		if err := p.Shelf.Demote(f); err != nil {
			return err
		}
		p.step("btrfs.demote.moved")
	}
	return p.dropHead(ctx, f)
}
