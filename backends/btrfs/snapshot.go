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
	"github.com/droverhq/drover/internal/linux/btrfsctl"
)

// Snapshot implements backends.Pool.
func (p *Pool) Snapshot(ctx context.Context, s dataset.Snapshot, _ backends.Progress) error {
	f, err := p.shelf.Find(s.Dataset)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sweep(); err != nil {
		return err
	}
	if _, err := f.Kept(s.ID); err == nil {
		return shelf.SyncDir(f.Root) // an earlier try may have been cut short before that
	} else if !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	if s.Kind != dataset.SnapshotTransfer {
		if err := p.room(); err != nil {
			return err
		}
	}
	h, err := f.Head()
	if err != nil {
		return err
	}
	name := shelf.TreeOf(s.ID)
	if err := p.copyTree(ctx, f, h.Tree, f, name, true); err != nil {
		return fmt.Errorf("snapshot %s: %w", s.ID, err)
	}
	p.step("btrfs.snapshot.made")
	return f.WriteKept(shelf.Kept{Snapshot: s, Tree: name, Limit: h.Size})
}

// DeleteSnapshot implements backends.Pool. Its record goes first.
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
		if err := p.dropOf(ctx, f, id); err != nil {
			return err
		}
	}
	name, err := f.Drop(id)
	if err != nil || name == "" {
		return err
	}
	p.step("btrfs.snapshot-delete.forgotten")
	err = p.destroyIn(ctx, f, name)
	if errors.Is(err, unix.EPERM) {
		return nil // it is being sent: a leftover from now on
	}
	return err
}

// Restore implements backends.Pool: a writable snapshot of the snapshot becomes the head by
// one rename, which makes the old head a snapshot. The size does not change.
func (p *Pool) Restore(ctx context.Context, ds, id uuid.UUID, keep dataset.Snapshot, _ backends.Progress) error {
	f, err := p.shelf.Find(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sweep(); err != nil {
		return err
	}
	kept, err := f.Kept(keep.ID)
	switch {
	case errors.Is(err, dataset.ErrNotFound):
	case err != nil:
		return err
	case kept.Tree != shelf.TreeOf(keep.ID):
		return p.restored(f, kept.Tree) // done before: the former head is kept
	default: // a snapshot, which differs from the head once that was written to
		if err := p.DeleteSnapshot(ctx, ds, keep.ID); err != nil {
			return err
		}
	}
	s, err := f.Kept(id)
	if err != nil {
		return err
	}
	if err := p.uses.Idle(ctx, ds, f.Path()); err != nil {
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
	if err = p.fitsHead(ctx, f, s, fresh); err == nil {
		err = p.refill(ctx, f, s, fresh)
	}
	if err != nil {
		return fmt.Errorf("restore snapshot %s: %w", id, err)
	}
	p.step("btrfs.restore.made")
	was := shelf.Kept{Snapshot: keep, Tree: old.Tree, Limit: old.Size}
	if err := f.Replace(was, fresh, func() { p.step("btrfs.restore.recorded") }); err != nil {
		if f.Removable(fresh.Tree) {
			_ = p.destroyIn(context.WithoutCancel(ctx), f, fresh.Tree) // or Reap destroys it
		}
		return err
	}
	p.step("btrfs.restore.replaced")
	return p.restored(f, old.Tree)
}

// fitsHead fails when a snapshot holds more than a head may.
func (p *Pool) fitsHead(ctx context.Context, f *shelf.Folder, s shelf.Kept, h shelf.Head) error {
	if h.Size == 0 || p.quota != btrfsctl.QuotaFull {
		return nil
	}
	used, err := p.used(ctx, f, s.Tree)
	if err == nil && used > h.Size {
		err = fmt.Errorf("%w: make the volume larger first", over("it", used, h.Size))
	}
	return err
}

// refill durably fills the tree of a new head from a snapshot. It may have more data than its size, if the
// data was compressed at its source: then the head is full.
func (p *Pool) refill(ctx context.Context, f *shelf.Folder, s shelf.Kept, fresh shelf.Head) error {
	if err := p.copyTree(ctx, f, s.Tree, f, fresh.Tree, false); err != nil {
		return err
	}
	dir, err := open(f, fresh.Tree)
	if err != nil {
		return err
	}
	defer dir.Close()
	if p.quota == btrfsctl.QuotaNone {
		return nil // its size holds when quotas are on again
	}
	return limit(dir, fresh.Size)
}

// restored makes the former head read-only, like any snapshot.
func (p *Pool) restored(f *shelf.Folder, old string) error {
	dir, err := open(f, old)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := btrfsctl.SetReadOnly(dir); err != nil {
		return err
	}
	return shelf.SyncDir(f.Root)
}
