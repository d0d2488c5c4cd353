package lvm

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
)

// Lock implements backends.Serializer.
func (p *Pool) Lock(ctx context.Context) (locked context.Context, unlock func(), err error) {
	return p.tool.holdTurn(ctx)
}

// Snapshot implements backends.Pool.
func (p *Pool) Snapshot(ctx context.Context, s dataset.Snapshot, _ backends.Progress) (err error) {
	defer backends.Wrap(&err, "snapshot %s", s.ID)
	f, err := p.FindDataset(s.Dataset)
	if err != nil {
		return err
	}
	defer f.Close()
	if exists, err := f.HasSnapshot(s.ID); err != nil || exists {
		return err
	}
	if s.Kind != dataset.SnapshotTransfer { // moving a dataset out of a full pool frees space
		if err := p.checkRoom(ctx); err != nil {
			return err
		}
	}
	_, head, err := headLink(f)
	if err != nil {
		return err
	}
	exact, err := backends.Frozen(ctx, func() error {
		_, err := p.snapshotVolume(ctx, head, f, shelf.TreeOf(s.ID), "y")
		return err
	})
	if err != nil {
		return err
	}
	s.Exact = s.Exact || exact
	return f.WriteSnapshot(shelf.SnapshotRecord{Snapshot: s, Tree: shelf.TreeOf(s.ID)})
}

// DeleteSnapshot implements backends.Pool. It removes the record first. Clones do not need the snapshot.
func (p *Pool) DeleteSnapshot(ctx context.Context, ds, id uuid.UUID) error {
	f, err := p.Shelf.FindDataset(ds)
	if errors.Is(err, dataset.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	name, err := f.Drop(id)
	if err != nil || name == "" {
		return err
	}
	p.step("lvm.snapshot-delete.forgotten")
	if err := p.destroy(ctx, f.Dir, name); err != nil && ctx.Err() == nil {
		return fmt.Errorf("snapshot %s was deleted, but not its blocks: %w", id, err)
	}
	return nil
}

// Restore implements backends.Pool. The head's volume becomes the kept snapshot unchanged, and a new volume with the
// content of the snapshot becomes the head. Replacing one record makes both changes. The size does not change.
func (p *Pool) Restore(ctx context.Context, ds, id uuid.UUID, keep dataset.Snapshot, _ backends.Progress) error {
	f, err := p.Shelf.FindDataset(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	plan, err := f.PlanRestore(id, keep.ID,
		func() error { return p.CheckIdle(ctx, ds) },
		func(snapshot uuid.UUID) error { return p.DeleteSnapshot(ctx, ds, snapshot) })
	switch {
	case err != nil || plan.Done:
		return err
	case plan.FormerHead != nil:
		return p.retire(ctx, f, plan.FormerHead.Tree)
	}
	old, newTree := plan.Old, shelf.RestoredTree(keep.ID)
	if err := p.makeHead(ctx, f, plan.From.Tree, old.Tree, newTree); err != nil {
		return fmt.Errorf("restore snapshot %s: %w", id, err)
	}
	kept := shelf.SnapshotRecord{Snapshot: keep, Tree: old.Tree}
	if err := f.Replace(kept, shelf.Head{Tree: newTree}, func() { p.step("lvm.restore.recorded") }); err != nil {
		if f.Removable(newTree) {
			_ = p.destroy(context.WithoutCancel(ctx), f.Dir, newTree) // or Reap destroys it
		}
		return err
	}
	p.step("lvm.restore.replaced")
	return p.retire(ctx, f, old.Tree)
}

// makeHead makes the volume of a new head from a snapshot. The volume is as large as that of the old head.
func (p *Pool) makeHead(ctx context.Context, f *shelf.Folder, from, old, newTree string) error {
	oldLink, err := linkOf(f.Dir, old)
	if err != nil {
		return err
	}
	size, err := p.sizeOf(ctx, oldLink.Volume)
	if err != nil {
		return err
	}
	source, err := linkOf(f.Dir, from)
	if err != nil {
		return err
	}
	source.Size = oldLink.Size
	name, err := p.snapshotVolume(ctx, source, f, newTree, "n")
	if err != nil {
		return err
	}
	return p.extend(ctx, name, size)
}

// retire deactivates the volume of the former head, because snapshots are never active.
func (p *Pool) retire(ctx context.Context, f *shelf.Folder, tree string) error {
	name, err := volumeOf(f.Dir, tree)
	if err != nil {
		return err
	}
	for _, args := range [][]string{{"--activate", "n"}, {"--setactivationskip", "y"}} {
		args = append(append([]string{"--yes"}, args...), p.ref(name))
		if err := p.change(ctx, "lvchange", args...); err != nil {
			return err
		}
	}
	return shelf.SyncDir(f.Dir)
}
