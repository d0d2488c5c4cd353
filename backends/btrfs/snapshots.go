package btrfs

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/bindmount"
	"github.com/droverhq/drover/backends/btrfs/subvolume"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
)

// snapshots takes and removes the snapshots of a dataset, and restores them.
type snapshots struct {
	uses  *bindmount.Tracker
	space *space
	heads *heads
	trees *subvolume.Store
	step  func(string)
}

// Snapshot implements backends.Pool.
func (p *Pool) Snapshot(ctx context.Context, s dataset.Snapshot, _ backends.Progress) error {
	f, err := p.shelf.Find(s.Dataset)
	if err != nil {
		return err
	}
	defer f.Close()
	return p.snapshots.take(ctx, f, s)
}

// take makes a snapshot of the head. Idempotent.
func (sn *snapshots) take(ctx context.Context, f *shelf.Folder, s dataset.Snapshot) error {
	if err := f.Sweep(); err != nil {
		return err
	}
	if _, err := f.Kept(s.ID); err == nil {
		return shelf.SyncDir(f.Root) // an earlier attempt may have been interrupted before its flush
	} else if !errors.Is(err, dataset.ErrNotFound) {
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
	if err := sn.trees.Copy(ctx, f, h.Tree, f, name, true); err != nil {
		return fmt.Errorf("snapshot %s: %w", s.ID, err)
	}
	sn.step("btrfs.snapshot.made")
	return f.WriteKept(shelf.Kept{Snapshot: s, Tree: name, Limit: h.Size})
}

// DeleteSnapshot implements backends.Pool.
func (p *Pool) DeleteSnapshot(ctx context.Context, ds, id uuid.UUID) error {
	f, err := p.shelf.FindAny(ds)
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
	err = sn.trees.DestroyIn(ctx, f, name)
	if errors.Is(err, unix.EPERM) {
		return nil // the snapshot is being sent: Reap removes it later
	}
	return err
}

// Restore implements backends.Pool. A writable snapshot of the snapshot becomes the head by one rename, which makes the
// old head a snapshot. The size does not change.
func (p *Pool) Restore(ctx context.Context, ds, id uuid.UUID, keep dataset.Snapshot, _ backends.Progress) error {
	f, err := p.shelf.Find(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	return p.snapshots.restore(ctx, f, id, keep)
}

// restore is Restore for an open folder.
func (sn *snapshots) restore(ctx context.Context, f *shelf.Folder, id uuid.UUID, keep dataset.Snapshot) error {
	if err := f.Sweep(); err != nil {
		return err
	}
	kept, err := f.Kept(keep.ID)
	switch {
	case errors.Is(err, dataset.ErrNotFound):
	case err != nil:
		return err
	case kept.Tree != shelf.TreeOf(keep.ID):
		return subvolume.Protect(f, kept.Tree) // done before: the former head is kept
	default: // taken by an earlier attempt: the head may have been written to since
		if err := sn.remove(ctx, f, keep.ID); err != nil {
			return err
		}
	}
	s, err := f.Kept(id)
	if err != nil {
		return err
	}
	if err := sn.uses.Idle(ctx, f.ID, f.Path()); err != nil {
		return err
	}
	if done, err := f.Restored(keep.ID); err != nil {
		return err
	} else if done {
		return shelf.SyncDir(f.Root) // the former head that it kept was deleted since
	}
	old, err := f.Head()
	if err != nil {
		return err
	}
	fresh := shelf.Head{Tree: shelf.RestoredTree(keep.ID), Size: old.Size}
	if err = sn.heads.check(ctx, f, s, fresh); err == nil {
		err = sn.heads.fill(ctx, f, s, fresh)
	}
	if err != nil {
		return fmt.Errorf("restore snapshot %s: %w", id, err)
	}
	sn.step("btrfs.restore.made")
	was := shelf.Kept{Snapshot: keep, Tree: old.Tree, Limit: old.Size}
	if err := f.Replace(was, fresh, func() { sn.step("btrfs.restore.recorded") }); err != nil {
		if f.Removable(fresh.Tree) {
			_ = sn.trees.DestroyIn(context.WithoutCancel(ctx), f, fresh.Tree) // or Reap destroys it
		}
		return err
	}
	sn.step("btrfs.restore.replaced")
	return subvolume.Protect(f, old.Tree)
}
