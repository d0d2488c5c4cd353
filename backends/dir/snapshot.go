package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

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
	if err := f.Sweep(); err != nil {
		return err
	}
	if _, err := f.Kept(s.ID); err == nil {
		return shelf.SyncDir(f.Root) // an earlier try may have been cut short before that
	} else if !errors.Is(err, dataset.ErrNotFound) {
		return err
	}
	if err := p.room(); err != nil {
		return err
	}
	if err := p.idle(ctx, f, "copied"); err != nil {
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

// Restore implements backends.Pool; the package comment says how. The size does not change.
func (p *Pool) Restore(ctx context.Context, ds, id uuid.UUID, keep dataset.Snapshot, progress backends.Progress) error {
	return p.restore(ctx, ds, id, keep, false, progress)
}

// RestoreApart is Restore where another host may write to the head that was; see backends.Sharer.
func (p *Pool) RestoreApart(ctx context.Context, ds, id uuid.UUID, keep dataset.Snapshot,
	progress backends.Progress) error {
	return p.restore(ctx, ds, id, keep, true, progress)
}

func (p *Pool) restore(ctx context.Context, ds, id uuid.UUID, keep dataset.Snapshot, apart bool,
	progress backends.Progress) error {
	f, err := p.shelf.Find(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sweep(); err != nil {
		return err
	}
	done, err := f.Kept(keep.ID)
	switch {
	case errors.Is(err, dataset.ErrNotFound):
	case err != nil:
		return err
	case done.Apart || done.Tree != shelf.TreeOf(keep.ID): // done before: the former head is kept
		if apart && !done.Apart {
			return p.part(ctx, f, done)
		}
		return shelf.SyncDir(f.Root)
	default: // a copy, which differs from the head once that was written to
		if err := p.DeleteSnapshot(ctx, ds, keep.ID); err != nil {
			return err
		}
	}
	s, err := f.Kept(id)
	if err != nil {
		return err
	}
	if err := p.idle(ctx, f, "restored"); err != nil {
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
	if apart { // before anything is changed: there may be no room for it
		if err := p.copyTree(ctx, f, old.Tree, f, shelf.TreeOf(keep.ID), copying{}, progress); err != nil {
			return fmt.Errorf("keep what it has: %w", err)
		}
		p.step("dir.restore.kept")
	}
	if fresh, err = p.copyHead(ctx, f, s.Tree, f, fresh, progress); err != nil {
		return fmt.Errorf("restore snapshot %s: %w", id, err) // a copy of the head that nothing names Reap removes
	}
	p.step("dir.restore.copied")
	kept := shelf.Kept{Snapshot: keep, Tree: old.Tree, Limit: old.Size}
	if err := f.Replace(kept, fresh, func() { p.step("dir.restore.recorded") }); err != nil {
		p.discard(ctx, f, fresh)
		return err
	}
	p.projects.lift(f, old)
	if !apart {
		return nil
	}
	p.step("dir.restore.set")
	return p.part(ctx, f, kept)
}

// discard removes the tree of a head that a restore made and could not put in place. It takes the room
// of a whole head. What cannot be removed now Reap removes.
func (p *Pool) discard(ctx context.Context, f *shelf.Folder, h shelf.Head) {
	if !f.Removable(h.Tree) {
		return
	}
	p.projects.lift(f, h)
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	_ = p.removeAll(after, f, h.Tree)
}

// part replaces the head that a restore kept by a copy, and removes the tree of the former head.
func (p *Pool) part(ctx context.Context, f *shelf.Folder, kept shelf.Kept) error {
	was := kept.Tree
	kept.Tree, kept.Apart = shelf.TreeOf(kept.ID), true
	if _, err := f.Lstat(kept.Tree); errors.Is(err, fs.ErrNotExist) { // reaped since a crash
		err = p.copyTree(ctx, f, was, f, kept.Tree, copying{}, nil)
		if err != nil {
			return err
		}
	}
	if err := f.WriteKept(kept); err != nil {
		return err
	}
	p.step("dir.restore.parted")
	if f.Removable(was) {
		_ = p.removeAll(ctx, f, was) // Reap removes the rest of it
	}
	return nil
}
