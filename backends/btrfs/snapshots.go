package btrfs

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
)

// Snapshot implements backends.Pool.
func (p *Pool) Snapshot(ctx context.Context, s dataset.Snapshot, _ backends.Progress) error {
	f, err := p.Shelf.FindDataset(s.Dataset)
	if err != nil {
		return err
	}
	defer f.Close()
	if exists, err := f.HasSnapshot(s.ID); err != nil || exists {
		return err
	}
	if s.Kind != dataset.SnapshotTransfer {
		if err := p.Room(); err != nil {
			return err
		}
	}
	h, err := f.Head()
	if err != nil {
		return err
	}
	name := shelf.TreeOf(s.ID)
	exact, err := backends.Frozen(ctx, func() error { return p.trees.Copy(ctx, f, h.Tree, f, name, true) })
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", s.ID, err)
	}
	s.Exact = s.Exact || exact
	p.step("btrfs.snapshot.made")
	return f.WriteSnapshot(shelf.SnapshotRecord{Snapshot: s, Tree: name, Limit: h.Size})
}

// DeleteSnapshot implements backends.Pool.
func (p *Pool) DeleteSnapshot(ctx context.Context, ds, id uuid.UUID) error {
	f, err := p.Shelf.FindDatasetOrCopy(ds)
	if errors.Is(err, dataset.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if f.State == backends.EntryCopy {
		if err := p.dropRelated(ctx, f, id); err != nil {
			return err
		}
	}
	return p.removeSnapshot(ctx, f, id)
}

// removeSnapshot removes a snapshot. It removes the record first. Idempotent.
func (p *Pool) removeSnapshot(ctx context.Context, f *shelf.Folder, id uuid.UUID) error {
	name, err := f.Drop(id)
	if err != nil || name == "" {
		return err
	}
	p.step("btrfs.snapshot-delete.forgotten")
	err = p.trees.Destroy(ctx, f.Dir, name)
	if errors.Is(err, unix.EPERM) {
		return nil // the snapshot is being sent: Reap removes it later
	}
	return err
}

// Restore implements backends.Pool. It makes a writable subvolume from the snapshot. One rename makes that subvolume
// the head and the old head a snapshot. The size does not change.
func (p *Pool) Restore(ctx context.Context, ds, id uuid.UUID, keep dataset.Snapshot, _ backends.Progress) error {
	f, err := p.Shelf.FindDataset(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	plan, err := f.PlanRestore(id, keep.ID,
		func() error { return p.uses.CheckIdle(ctx, f.ID, f.Path()) },
		func(snapshot uuid.UUID) error { return p.removeSnapshot(ctx, f, snapshot) })
	switch {
	case err != nil || plan.Done:
		return err
	case plan.FormerHead != nil:
		return protect(f, plan.FormerHead.Tree)
	}
	old := plan.Old
	newHead := shelf.Head{Tree: shelf.RestoredTree(keep.ID), Size: old.Size}
	if err = p.checkFits(ctx, f, plan.From, newHead); err == nil {
		err = p.fillHead(ctx, f, plan.From, newHead)
	}
	if err != nil {
		return fmt.Errorf("restore snapshot %s: %w", id, err)
	}
	p.step("btrfs.restore.made")
	kept := shelf.SnapshotRecord{Snapshot: keep, Tree: old.Tree, Limit: old.Size}
	if err := f.Replace(kept, newHead, func() { p.step("btrfs.restore.recorded") }); err != nil {
		if f.Removable(newHead.Tree) {
			_ = p.trees.Destroy(context.WithoutCancel(ctx), f.Dir, newHead.Tree) // or Reap destroys it
		}
		return err
	}
	p.step("btrfs.restore.replaced")
	return protect(f, old.Tree)
}

// checkFits fails if the content of a snapshot is larger than the size of the head that is made from the snapshot.
// Without full quotas, the size of the content is not known, and checkFits accepts every snapshot.
func (p *Pool) checkFits(ctx context.Context, f *shelf.Folder, s shelf.SnapshotRecord, newHead shelf.Head) error {
	if newHead.Size == 0 || !p.quota.Full() {
		return nil
	}
	used, err := p.usedBy(ctx, f, s.Tree)
	if err == nil && used > newHead.Size {
		err = fmt.Errorf("%w: make the volume larger first", tooLargeError("it", used, newHead.Size))
	}
	return err
}

// fillHead durably fills the tree of a new head from a snapshot, and sets the limit of the tree. A power cut can undo
// the limit: see "Durability" in the package comment. The tree may have more data than its size, if the data was
// compressed at its source. Then the head is full.
func (p *Pool) fillHead(ctx context.Context, f *shelf.Folder, s shelf.SnapshotRecord, newHead shelf.Head) error {
	if err := p.trees.Copy(ctx, f, s.Tree, f, newHead.Tree, false); err != nil {
		return err
	}
	dir, err := openSubvolume(f, newHead.Tree)
	if err != nil {
		return err
	}
	defer dir.Close()
	return p.quota.Assign(dir, newHead.Size)
}
