package btrfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/backends/spool"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/linux/fsctl"
)

// describeCopy adds to the entry of a copy what else it has.
func describeCopy(f *shelf.Folder, head shelf.Head, e *backends.Entry) {
	_, err := f.Lstat(head.Tree)
	e.Promoted = err == nil
	e.Partial = spool.Partial(f.Root)
}

// Received implements backends.Copier.
func (p *Pool) Received(_ context.Context, ds, snapshot uuid.UUID) (backends.Received, error) {
	return p.shelf.Received(ds, snapshot, cameBy)
}

// cameBy returns the stream by which a complete snapshot came.
func cameBy(f *shelf.Folder, snapshot uuid.UUID) (backends.Stream, error) {
	s, err := f.Kept(snapshot)
	return s.Stream, err
}

// Receive implements backends.Copier: the stream is gathered in a file, and applied once it was
// verified.
func (p *Pool) Receive(ctx context.Context, d backends.Delivery, r io.Reader,
	progress backends.Progress) (backends.Stream, error) {
	out, err := p.receive(ctx, d, r, progress)
	if err != nil {
		return out, fmt.Errorf("receive snapshot %s of dataset %s: %w", d.Snapshot.ID, d.Dataset.ID, noSpace(err))
	}
	return out, nil
}

func (p *Pool) receive(ctx context.Context, d backends.Delivery, r io.Reader,
	progress backends.Progress) (out backends.Stream, err error) {
	f, err := p.shelf.MakeCopy(d.Dataset, p.room)
	if err != nil {
		return out, err
	}
	defer f.Close()
	p.step("btrfs.receive.copy")
	have, err := f.Received(d.Snapshot.ID, cameBy)
	switch {
	case err != nil:
		return out, err
	case have.Whole:
		return have.Last, errors.Join(spool.Drop(f.Root), shelf.SyncDir(f.Root))
	}
	if err := d.Follows(have); err != nil {
		return out, err
	}
	if err := p.room(); err != nil {
		return out, err
	}
	base := func(id uuid.UUID) error {
		b, err := f.Kept(id)
		if err == nil && b.Stream.Sum != "" {
			err = fits(f, b)
		}
		return err
	}
	if err := p.dropHead(ctx, f); err != nil {
		return out, err
	}
	s := f.Spool(func(came int64) error { return p.roomFor(came, 0) }, p.step)
	if out, err = s.Gather(ctx, d, Name, r, progress, base); err != nil {
		return out, err
	}
	p.step("btrfs.receive.gathered")
	if err := p.roomFor(out.Bytes, out.Bytes); err != nil {
		return out, err
	}
	if err := p.received(ctx, f, shelf.TreeOf(d.Snapshot.ID), d.Base); err != nil {
		if errors.Is(err, dataset.ErrCorrupt) {
			err = errors.Join(err, spool.Drop(f.Root))
		}
		return out, errors.Join(err, p.destroyIn(context.WithoutCancel(ctx), f, shelf.TreeOf(d.Snapshot.ID)))
	}
	p.step("btrfs.receive.durable")
	if err := f.WriteKept(shelf.Kept{
		Snapshot: d.Snapshot,
		Tree:     shelf.TreeOf(d.Snapshot.ID),
		Limit:    out.Size,
		Stream:   out,
	}); err != nil {
		return out, err
	}
	p.step("btrfs.receive.recorded")
	return out, spool.Drop(f.Root)
}

// roomFor checks the room for the bytes that are still to come. The filesystem may not have counted the
// written bytes yet: btrfs counts them with its next commit.
func (p *Pool) roomFor(written, wanted int64) error {
	return backends.RoomFor(p.name, p.shelf.Status, written, wanted, func() error { return p.within(p.commit) })
}

// dropHead takes the head from a copy, if it has one. A head that a crash left on its way to be a snapshot
// becomes that snapshot; any other is destroyed if it has the content of a snapshot. dataset.ErrConflict: it
// has not.
func (p *Pool) dropHead(ctx context.Context, f *shelf.Folder) error {
	h, err := f.Head()
	if err != nil {
		return err
	}
	if _, err := f.Lstat(h.Tree); errors.Is(err, os.ErrNotExist) {
		return shelf.SyncDir(f.Root)
	}
	kept, err := f.Keeps(h.Tree)
	if err != nil {
		return err
	}
	if kept {
		err = p.restored(f, h.Tree)
	} else {
		err = p.spare(ctx, f, h)
	}
	if err != nil {
		return err
	}
	if err := f.Headless(); err != nil {
		return err
	}
	p.step("btrfs.head.dropped")
	if kept {
		return nil
	}
	return p.destroyIn(ctx, f, h.Tree)
}

// spare fails with ErrConflict if the head of a copy has data that no snapshot has.
func (p *Pool) spare(ctx context.Context, f *shelf.Folder, h shelf.Head) error {
	if h.From != uuid.Nil {
		if _, err := f.Kept(h.From); err == nil {
			return nil
		}
	}
	kept, err := f.Snapshots()
	if err != nil {
		return err
	}
	for _, s := range kept {
		if same, err := p.headIs(ctx, f, h, s.ID); err != nil || same {
			return err
		}
	}
	return dataset.Errorf(dataset.ErrConflict,
		"the copy has a head with bytes that no snapshot of it has: it was left as it is (keep it as superseded first)")
}

// headIs reports whether a head has the content of a snapshot, wherever its folder is.
func (p *Pool) headIs(ctx context.Context, f *shelf.Folder, h shelf.Head, snapshot uuid.UUID) (bool, error) {
	old, done, err := p.point(ctx, f, dataset.Source{Snapshot: snapshot})
	if err != nil {
		return false, err
	}
	defer done()
	now, gone, err := p.frozen(ctx, f, h)
	if err != nil {
		return false, err
	}
	defer gone()
	_, err = compare(ctx, now, old, true)
	if errors.Is(err, btrfsctl.ErrDiffers) {
		return false, nil
	}
	return err == nil, err
}

// dropOf removes the other data of a snapshot that is removed from a copy: its received part, and a head that
// was made of it.
func (p *Pool) dropOf(ctx context.Context, f *shelf.Folder, snapshot uuid.UUID) error {
	if err := spool.DropOf(f.Root, snapshot); err != nil {
		return err
	}
	h, err := f.Head()
	if err != nil {
		return err
	}
	// A Supersede that was cut short has yet to make the head that snapshot: it would come back.
	keeping, err := f.Named(h.Tree, snapshot)
	if err != nil || h.From != snapshot && !keeping {
		return err
	}
	return p.dropHead(ctx, f)
}

// Promote implements backends.Copier.
func (p *Pool) Promote(ctx context.Context, ds, snapshot uuid.UUID) error {
	f, err := p.shelf.FindAny(ds)
	if err == nil {
		defer f.Close()
		err = p.promote(ctx, f, snapshot)
	}
	if err != nil {
		return fmt.Errorf("promote the copy of dataset %s to snapshot %s: %w", ds, snapshot, err)
	}
	return nil
}

func (p *Pool) promote(ctx context.Context, f *shelf.Folder, snapshot uuid.UUID) error {
	if f.State != backends.EntryCopy {
		return nil
	}
	s, err := f.Kept(snapshot)
	if err != nil {
		return err
	}
	h, err := f.Head()
	if err != nil {
		return err
	}
	if _, err := f.Lstat(h.Tree); err == nil && h.From == snapshot {
		return shelf.SyncDir(f.Root)
	}
	if err := p.dropHead(ctx, f); err != nil {
		return err
	}
	fresh := shelf.Head{Tree: shelf.RestoredTree(uuid.New()), Size: s.Limit, From: snapshot}
	if err := p.refill(ctx, f, s, fresh); err != nil {
		return err
	}
	p.step("btrfs.promote.made")
	return f.SetHead(fresh)
}

// commitCopy makes a copy that was promoted the dataset's home.
func (p *Pool) commitCopy(f *shelf.Folder) error {
	h, err := f.Head()
	if err == nil {
		if _, err = f.Lstat(h.Tree); errors.Is(err, os.ErrNotExist) {
			err = f.NoHead()
		}
	}
	if err == nil {
		err = spool.Drop(f.Root)
	}
	if err == nil {
		err = p.shelf.Promote(f)
	}
	return err
}

// Demote implements backends.Copier.
func (p *Pool) Demote(ctx context.Context, ds, snapshot uuid.UUID) error {
	err := p.demote(ctx, ds, func(f *shelf.Folder) (uuid.UUID, error) {
		return snapshot, p.isHead(ctx, f, snapshot)
	})
	if err != nil {
		return fmt.Errorf("make dataset %s a copy with snapshot %s: %w", ds, snapshot, err)
	}
	return nil
}

// isHead fails with ErrConflict when the head of a dataset, or one that its copy still has, is
// not what its snapshot is.
func (p *Pool) isHead(ctx context.Context, f *shelf.Folder, snapshot uuid.UUID) error {
	if _, err := f.Kept(snapshot); err != nil {
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
	same, err := p.headIs(ctx, f, h, snapshot)
	if err == nil && !same {
		err = dataset.Errorf(dataset.ErrConflict, "it was written to after snapshot %s, and that would be lost",
			snapshot)
	}
	return err
}

// Supersede implements backends.Copier: the head becomes the snapshot.
func (p *Pool) Supersede(ctx context.Context, ds uuid.UUID, keep dataset.Snapshot) error {
	err := p.demote(ctx, ds, func(f *shelf.Folder) (is uuid.UUID, err error) {
		if err := p.isHead(ctx, f, keep.ID); !errors.Is(err, dataset.ErrNotFound) {
			return keep.ID, err
		}
		h, err := f.Head()
		if err != nil {
			return is, err
		}
		if _, err := f.Lstat(h.Tree); errors.Is(err, os.ErrNotExist) {
			return is, dataset.Errorf(dataset.ErrConflict, "there is no head")
		}
		if err := flush(f, h.Tree); err != nil {
			return is, err
		}
		return is, f.WriteKept(shelf.Kept{Snapshot: keep, Tree: h.Tree, Limit: h.Size})
	})
	if err != nil {
		return fmt.Errorf("keep the head of dataset %s as snapshot %s: %w", ds, keep.ID, err)
	}
	return nil
}

// flush makes all that was written to a tree durable.
func flush(f *shelf.Folder, name string) error {
	tree, err := open(f, name)
	if err != nil {
		return err
	}
	defer tree.Close()
	return fsctl.Sync(tree)
}

// demote makes a dataset, whose head is one of its snapshots once keep is done, a copy: it moves
// there with its head, which is taken from it then, so that it is never a dataset without one.
// keep returns the snapshot that has all that the head has; uuid.Nil: the head becomes one.
func (p *Pool) demote(ctx context.Context, ds uuid.UUID, keep func(*shelf.Folder) (uuid.UUID, error)) error {
	f, err := p.shelf.FindAny(ds)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := p.uses.Idle(ctx, ds, f.Path()); err != nil {
		return err
	}
	if err := f.Sweep(); err != nil {
		return err
	}
	is, err := keep(f)
	if err != nil {
		return noSpace(err)
	}
	p.step("btrfs.demote.kept")
	if f.State != backends.EntryCopy {
		h, err := f.Head()
		if err != nil {
			return err
		}
		if h.From != is { // it was written to since, or compared just now
			h.From = is
			if err := f.SetHead(h); err != nil {
				return err
			}
		}
		if err := p.shelf.Demote(f); err != nil {
			return err
		}
		p.step("btrfs.demote.moved")
	}
	return p.dropHead(ctx, f)
}

// Idle implements backends.IdleChecker.
func (p *Pool) Idle(ctx context.Context, id uuid.UUID) error {
	f, err := p.shelf.Find(id)
	if err != nil {
		return err
	}
	defer f.Close()
	return p.uses.Idle(ctx, id, f.Path())
}
