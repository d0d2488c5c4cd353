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

// Send implements backends.Sender: the kernel's stream of two subvolumes that never change, which is the same
// each time.
func (p *Pool) Send(ctx context.Context, src dataset.Source, base uuid.UUID, from int64, w io.Writer,
	progress backends.Progress) (backends.Stream, error) {
	out, err := p.send(ctx, src, base, from, w, progress)
	if err != nil {
		return out, fmt.Errorf("send snapshot %s of dataset %s: %w", src.Snapshot, src.Dataset, err)
	}
	return out, nil
}

func (p *Pool) send(ctx context.Context, src dataset.Source, base uuid.UUID, from int64, w io.Writer,
	progress backends.Progress) (out backends.Stream, err error) {
	f, err := p.shelf.FindAny(src.Dataset)
	if err != nil {
		return out, err
	}
	defer f.Close()
	s, err := f.Kept(src.Snapshot)
	if err != nil {
		return out, err
	}
	tree, err := openReadOnly(f, s)
	if err != nil {
		return out, err
	}
	defer tree.Close()
	var old *os.File
	if base != uuid.Nil {
		b, err := f.Kept(base)
		if err != nil {
			return out, err
		}
		if old, err = openReadOnly(f, b); err != nil {
			return out, err
		}
		defer old.Close()
	}
	frames, err := spool.NewWriter(w, spool.Header{
		Kind:     Name,
		Dataset:  src.Dataset,
		Snapshot: src.Snapshot,
		Base:     base,
		Size:     s.Limit,
	}, from)
	if err != nil {
		return out, err
	}
	if err := btrfsctl.Send(ctx, tree, old, true, spool.Counting(frames, progress)); err != nil {
		return out, err
	}
	return frames.Close()
}

// openReadOnly opens the tree of a snapshot; one that a crash left writable is so no more then.
func openReadOnly(f *shelf.Folder, s shelf.Kept) (*os.File, error) {
	dir, err := open(f, s.Tree)
	if err != nil {
		return nil, err
	}
	if err := btrfsctl.SetReadOnly(dir); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// Changed implements backends.Sender: the kernel lists the differences of two subvolumes without their data.
func (p *Pool) Changed(ctx context.Context, older, newer dataset.Source) (backends.Change, error) {
	c, err := p.changed(ctx, older, newer, false)
	if err != nil {
		return backends.Change{}, fmt.Errorf("compare two points in time of dataset %s: %w", newer.Dataset, err)
	}
	return backends.Change{Bytes: c.Bytes, Ranges: c.Ranges}, nil
}

// Same implements backends.Sender.
func (p *Pool) Same(ctx context.Context, ds, a, b uuid.UUID) (bool, error) {
	_, err := p.changed(ctx, dataset.Source{Dataset: ds, Snapshot: a}, dataset.Source{Dataset: ds, Snapshot: b}, true)
	if errors.Is(err, btrfsctl.ErrDiffers) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("compare two points in time of dataset %s: %w", ds, err)
	}
	return true, nil
}

func (p *Pool) changed(ctx context.Context, older, newer dataset.Source, first bool) (c btrfsctl.Change, err error) {
	if older.Dataset != uuid.Nil && older.Dataset != newer.Dataset {
		return c, dataset.Errorf(dataset.ErrUnsupported, "they are of two datasets")
	}
	f, err := p.shelf.FindAny(newer.Dataset)
	if err != nil {
		return c, err
	}
	defer f.Close()
	fresh, done, err := p.point(ctx, f, newer)
	if err != nil {
		return c, err
	}
	defer done()
	if older.Dataset == uuid.Nil {
		return compare(ctx, fresh, nil, first)
	}
	old, oldDone, err := p.point(ctx, f, older)
	if err != nil {
		return c, err
	}
	defer oldDone()
	return compare(ctx, fresh, old, first)
}

func compare(ctx context.Context, fresh, old *os.File, first bool) (c btrfsctl.Change, err error) {
	r, w := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := btrfsctl.Send(ctx, fresh, old, false, w)
		_ = w.CloseWithError(err)
		sent <- err
	}()
	c, err = btrfsctl.Compare(r, first)
	_ = r.CloseWithError(err)
	if sErr := <-sent; sErr != nil && !errors.Is(sErr, btrfsctl.ErrDiffers) && !errors.Is(sErr, io.ErrClosedPipe) {
		err = sErr
	}
	return c, err
}

// point opens a point in time of a dataset, read-only: of the head it takes a snapshot that
// goes when done is called.
func (p *Pool) point(ctx context.Context, f *shelf.Folder, src dataset.Source) (tree *os.File, done func(), err error) {
	if src.Snapshot != uuid.Nil {
		s, err := f.Kept(src.Snapshot)
		if err != nil {
			return nil, nil, err
		}
		tree, err := openReadOnly(f, s)
		return tree, func() { _ = tree.Close() }, err
	}
	if f.State == backends.EntryCopy {
		return nil, nil, f.NoHead()
	}
	h, err := f.Head()
	if err != nil {
		return nil, nil, err
	}
	return p.frozen(ctx, f, h)
}

// frozen takes a snapshot of a head that goes when done is called.
func (p *Pool) frozen(ctx context.Context, f *shelf.Folder, h shelf.Head) (tree *os.File, done func(), err error) {
	name := shelf.Temp + uuid.NewString()
	if err := p.copyTree(ctx, f, h.Tree, f, name, true); err != nil {
		return nil, nil, err
	}
	gone := func() { _ = p.destroyIn(context.WithoutCancel(ctx), f, name) }
	if tree, err = open(f, name); err != nil {
		gone()
		return nil, nil, err
	}
	return tree, func() { _ = tree.Close(); gone() }, nil
}

// received makes a tree of the gathered stream, on a snapshot of its base.
func (p *Pool) received(ctx context.Context, f *shelf.Folder, name string, base uuid.UUID) error {
	dir, err := f.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := p.destroy(ctx, dir, name); err != nil {
		return err
	}
	var old *os.File
	if base != uuid.Nil {
		b, err := f.Kept(base)
		if err != nil {
			return err
		}
		if old, err = openReadOnly(f, b); err != nil {
			return err
		}
		defer old.Close()
		err = btrfsctl.Snapshot(dir, name, old, false)
		if err != nil {
			return noSpace(err)
		}
	} else if err := noSpace(btrfsctl.Create(dir, name)); err != nil {
		return err
	}
	p.step("btrfs.receive.begun")
	tree, err := open(f, name)
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := p.unlimited(tree); err != nil {
		return err
	}
	stream, err := f.Root.Open(spool.File)
	if err != nil {
		return err
	}
	defer stream.Close()
	err = btrfsctl.Apply(ctx, stream, tree, old)
	if errors.Is(err, btrfsctl.ErrBase) {
		err = fmt.Errorf("%w: %w", backends.ErrUnfit, err)
	}
	if errors.Is(err, btrfsctl.ErrStream) {
		err = dataset.Errorf(dataset.ErrCorrupt, "%w", err)
	}
	if err != nil {
		return noSpace(err)
	}
	p.step("btrfs.receive.applied")
	if err := btrfsctl.SetReadOnly(tree); err != nil {
		return err
	}
	return fsctl.Sync(tree)
}

// fits fails with ErrUnfit if the identity of a received snapshot was not noted: then no difference can refer to it.
func fits(f *shelf.Folder, s shelf.Kept) error {
	dir, err := openReadOnly(f, s)
	if err != nil {
		return err
	}
	defer dir.Close()
	if as, err := btrfsctl.CameAs(dir); err != nil || as != uuid.Nil {
		return err
	}
	return dataset.Errorf(dataset.ErrCorrupt, "%w: nobody noted as what snapshot %s came", backends.ErrUnfit, s.ID)
}

// unlimited takes the limit from a tree that has it from its base: it may be larger.
func (p *Pool) unlimited(tree *os.File) error {
	if p.quota == btrfsctl.QuotaNone {
		return nil
	}
	return limit(tree, 0)
}
