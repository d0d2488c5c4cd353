package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
)

// Snapshot implements backends.Pool. It returns dataset.ErrInUse while the dataset is attached or mounted, because it
// copies file by file.
func (p *Pool) Snapshot(ctx context.Context, s dataset.Snapshot, progress backends.Progress) error {
	f, err := p.Shelf.FindDataset(s.Dataset)
	if err != nil {
		return err
	}
	defer f.Close()
	if exists, err := f.HasSnapshot(s.ID); err != nil || exists {
		return err
	}
	if err := p.Room(); err != nil {
		return err
	}
	if err := p.checkIdle(ctx, f, "copied"); err != nil {
		return err
	}
	from, err := f.Head()
	if err != nil {
		return err
	}
	name := shelf.TreeOf(s.ID)
	if err := p.copyTree(ctx, f, from.Tree, f, name, copyOptions{}, progress); err != nil {
		return fmt.Errorf("snapshot %s: %w", s.ID, err)
	}
	p.step("dir.snapshot.copied")
	return f.WriteSnapshot(shelf.SnapshotRecord{Snapshot: s, Tree: name, Limit: from.Size})
}

// DeleteSnapshot implements backends.Pool.
func (p *Pool) DeleteSnapshot(ctx context.Context, ds, id uuid.UUID) error {
	f, err := p.Shelf.FindDataset(ds)
	if errors.Is(err, dataset.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return p.removeSnapshot(ctx, f, id)
}

// removeSnapshot removes a snapshot. It removes the record first. Idempotent.
func (p *Pool) removeSnapshot(ctx context.Context, f *shelf.Folder, id uuid.UUID) error {
	name, err := f.Drop(id)
	if err != nil || name == "" {
		return err
	}
	p.step("dir.snapshot-delete.forgotten")
	return p.removeAll(ctx, f, name)
}

// Restore implements backends.Pool. See the package comment. The size does not change.
func (p *Pool) Restore(ctx context.Context, ds, id uuid.UUID, keep dataset.Snapshot, progress backends.Progress) error {
	return p.restore(ctx, ds, id, keep, false, progress)
}

// RestoreByCopy restores a dataset whose former head another host may still write to; see backends.Sharer.
func (p *Pool) RestoreByCopy(ctx context.Context, ds, id uuid.UUID, keep dataset.Snapshot,
	progress backends.Progress) error {
	return p.restore(ctx, ds, id, keep, true, progress)
}

func (p *Pool) restore(ctx context.Context, ds, id uuid.UUID, keep dataset.Snapshot, copyHead bool,
	progress backends.Progress) error {
	f, err := p.Shelf.FindDataset(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	plan, err := f.PlanRestore(id, keep.ID,
		func() error { return p.checkIdle(ctx, f, "restored") },
		func(snapshot uuid.UUID) error { return p.removeSnapshot(ctx, f, snapshot) })
	switch {
	case err != nil || plan.Done:
		return err
	case plan.FormerHead != nil:
		if copyHead && !plan.FormerHead.CopiedHead {
			return p.copyFormerHead(ctx, f, *plan.FormerHead)
		}
		return shelf.SyncDir(f.Dir)
	}
	old := plan.Old
	newHead := shelf.Head{Tree: shelf.RestoredTree(keep.ID), Size: old.Size}
	if copyHead { // copy before the head changes, because the copy fails if the pool has no room for it
		if err := p.copyTree(ctx, f, old.Tree, f, shelf.TreeOf(keep.ID), copyOptions{}, progress); err != nil {
			return fmt.Errorf("keep its current data: %w", err)
		}
		p.step("dir.restore.kept")
	}
	if newHead, err = p.copyHead(ctx, f, plan.From.Tree, f, newHead, progress); err != nil {
		return fmt.Errorf("restore snapshot %s: %w", id, err) // Reap removes the unrecorded copy of the head
	}
	p.step("dir.restore.copied")
	kept := shelf.SnapshotRecord{Snapshot: keep, Tree: old.Tree, Limit: old.Size}
	if err := f.Replace(kept, newHead, func() { p.step("dir.restore.recorded") }); err != nil {
		p.discard(ctx, f, newHead)
		return err
	}
	p.projects.liftLimit(f, old)
	if !copyHead {
		return nil
	}
	p.step("dir.restore.set")
	return p.copyFormerHead(ctx, f, kept)
}

// copyFormerHead copies the tree of the former head, unless an earlier attempt has copied it. It then changes the
// record of the snapshot, kept, so that the record names the copy, and removes the tree of the former head.
func (p *Pool) copyFormerHead(ctx context.Context, f *shelf.Folder, kept shelf.SnapshotRecord) error {
	formerTree := kept.Tree
	kept.Tree, kept.CopiedHead = shelf.TreeOf(kept.ID), true
	if _, err := f.Lstat(kept.Tree); errors.Is(err, fs.ErrNotExist) { // Reap removed the copy after a crash
		err = p.copyTree(ctx, f, formerTree, f, kept.Tree, copyOptions{}, nil)
		if err != nil {
			return err
		}
	}
	if err := f.WriteSnapshot(kept); err != nil {
		return err
	}
	p.step("dir.restore.parted")
	if f.Removable(formerTree) {
		_ = p.removeAll(ctx, f, formerTree) // if this fails, Reap removes the rest
	}
	return nil
}
