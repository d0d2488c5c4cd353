package dir

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
)

// Snapshot implements backends.Pool. It copies: dataset.ErrInUse while the
// dataset is attached or mounted.
func (p *Pool) Snapshot(ctx context.Context, s dataset.Snapshot, progress backends.Progress) error {
	f, err := p.shelf.Find(s.Dataset)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Kept(s.ID); err == nil {
		return shelf.SyncDir(f.Root) // an earlier try may have been cut short before that
	} else if !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	if err := p.room(); err != nil {
		return err
	}
	if err := p.idle(f, "copied"); err != nil {
		return err
	}
	from, err := f.Head()
	if err != nil {
		return err
	}
	name := shelf.TreeOf(s.ID)
	if err := p.copyTree(ctx, f, from.Tree, f, name, copying{}, progress); err != nil {
		return fmt.Errorf("snapshot %s: %w", s.ID, err)
	}
	p.step("dir.snapshot.copied")
	return f.WriteKept(shelf.Kept{Snapshot: s, Tree: name, Limit: from.Size})
}

// DeleteSnapshot implements backends.Pool. Its record goes first.
func (p *Pool) DeleteSnapshot(ctx context.Context, ds, id uuid.UUID) error {
	f, err := p.shelf.Find(ds)
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
	p.step("dir.snapshot-delete.forgotten")
	return p.removeAll(ctx, f, name)
}

// Restore implements backends.Pool; the package comment says how. The size stays what it is.
func (p *Pool) Restore(ctx context.Context, ds, id uuid.UUID, keep dataset.Snapshot, progress backends.Progress) error {
	f, err := p.shelf.Find(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	done, err := f.Kept(keep.ID)
	switch {
	case errors.Is(err, dataset.ErrNotFound):
	case err != nil:
		return err
	case done.Tree != shelf.TreeOf(keep.ID):
		return shelf.SyncDir(f.Root) // done before: what the head was is kept
	default: // a copy, which is no more what the head is once that was written to
		if err := p.DeleteSnapshot(ctx, ds, keep.ID); err != nil {
			return err
		}
	}
	s, err := f.Kept(id)
	if err != nil {
		return err
	}
	if err := p.idle(f, "restored"); err != nil {
		return err
	}
	old, err := f.Head()
	if err != nil {
		return err
	}
	fresh := shelf.Head{Tree: shelf.RestoredTree(keep.ID), Size: old.Size}
	if old.Tree == fresh.Tree {
		return shelf.SyncDir(f.Root) // done before, and what it kept has been deleted since
	}
	if fresh, err = p.copyHead(ctx, f, s.Tree, f, fresh, progress); err != nil {
		return fmt.Errorf("restore snapshot %s: %w", id, err)
	}
	p.step("dir.restore.copied")
	if err := f.WriteKept(shelf.Kept{Snapshot: keep, Tree: old.Tree, Limit: old.Size}); err != nil {
		return err
	}
	p.step("dir.restore.recorded")
	if err := f.SetHead(fresh); err != nil {
		return err
	}
	p.lift(f, old)
	return nil
}
