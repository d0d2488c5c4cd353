package btrfs

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/bindmount"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
)

// snapshots takes and removes the snapshots of a dataset, and restores them.
type snapshots struct {
	uses  *bindmount.Tracker
	space *space
	heads *heads
	trees *subvolumes
	step  func(string)
}

// Snapshot implements backends.Pool.
func (p *Pool) Snapshot(ctx context.Context, s dataset.Snapshot, _ backends.Progress) error {
	f, err := p.shelf.FindDataset(s.Dataset)
	if err != nil {
		return err
	}
	defer f.Close()
	return p.snapshots.take(ctx, f, s)
}

// take makes a snapshot of the head. Idempotent.
func (sn *snapshots) take(ctx context.Context, f *shelf.Folder, s dataset.Snapshot) error {
	if exists, err := f.HasSnapshot(s.ID); err != nil || exists {
		return err
	}
	if s.Kind != dataset.SnapshotTransfer {
		if err := sn.space.room(); err != nil {
			return err
		}
	}
	h, err := f.Head()
	if err != nil {
		return err
	}
	name := shelf.TreeOf(s.ID)
	exact, err := backends.Frozen(ctx, func() error { return sn.trees.Copy(ctx, f, h.Tree, f, name, true) })
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", s.ID, err)
	}
	s.Exact = s.Exact || exact
	sn.step("btrfs.snapshot.made")
	return f.WriteSnapshot(shelf.SnapshotRecord{Snapshot: s, Tree: name, Limit: h.Size})
}

// DeleteSnapshot implements backends.Pool.
func (p *Pool) DeleteSnapshot(ctx context.Context, ds, id uuid.UUID) error {
	f, err := p.shelf.FindDatasetOrCopy(ds)
	if errors.Is(err, dataset.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if f.State == backends.EntryCopy {
		if err := p.copier.dropRelated(ctx, f, id); err != nil {
			return err
		}
	}
	return p.snapshots.remove(ctx, f, id)
}

// remove removes a snapshot. It removes the record first. Idempotent.
func (sn *snapshots) remove(ctx context.Context, f *shelf.Folder, id uuid.UUID) error {
	name, err := f.Drop(id)
	if err != nil || name == "" {
		return err
	}
	sn.step("btrfs.snapshot-delete.forgotten")
	err = sn.trees.Destroy(ctx, f.Dir, name)
	if errors.Is(err, unix.EPERM) {
		return nil // the snapshot is being sent: Reap removes it later
	}
	return err
}

// Restore implements backends.Pool. It makes a writable subvolume from the snapshot. One rename makes that subvolume
// the head and the old head a snapshot. The size does not change.
func (p *Pool) Restore(ctx context.Context, ds, id uuid.UUID, keep dataset.Snapshot, _ backends.Progress) error {
	f, err := p.shelf.FindDataset(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	return p.snapshots.restore(ctx, f, id, keep)
}

// restore does the work of Restore for an open folder.
func (sn *snapshots) restore(ctx context.Context, f *shelf.Folder, id uuid.UUID, keep dataset.Snapshot) error {
	plan, err := f.PlanRestore(id, keep.ID,
		func() error { return sn.uses.CheckIdle(ctx, f.ID, f.Path()) },
		func(snapshot uuid.UUID) error { return sn.remove(ctx, f, snapshot) })
	switch {
	case err != nil || plan.Done:
		return err
	case plan.FormerHead != nil:
		return protect(f, plan.FormerHead.Tree)
	}
	old := plan.Old
	newHead := shelf.Head{Tree: shelf.RestoredTree(keep.ID), Size: old.Size}
	if err = sn.heads.check(ctx, f, plan.From, newHead); err == nil {
		err = sn.heads.fill(ctx, f, plan.From, newHead)
	}
	if err != nil {
		return fmt.Errorf("restore snapshot %s: %w", id, err)
	}
	sn.step("btrfs.restore.made")
	kept := shelf.SnapshotRecord{Snapshot: keep, Tree: old.Tree, Limit: old.Size}
	if err := f.Replace(kept, newHead, func() { sn.step("btrfs.restore.recorded") }); err != nil {
		if f.Removable(newHead.Tree) {
			_ = sn.trees.Destroy(context.WithoutCancel(ctx), f.Dir, newHead.Tree) // or Reap destroys it
		}
		return err
	}
	sn.step("btrfs.restore.replaced")
	return protect(f, old.Tree)
}
