package btrfs

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
)

// openPoint opens a point in time read-only. For the head it takes a snapshot, which done destroys.
func (p *Pool) openPoint(ctx context.Context, f *shelf.Folder, src dataset.Source) (tree *os.File, done func(),
	err error) {
	if src.Snapshot != uuid.Nil {
		s, err := f.ReadSnapshot(src.Snapshot)
		if err != nil {
			return nil, nil, err
		}
		tree, err := openReadOnly(f, s)
		return tree, func() { _ = tree.Close() }, err
	}
	if f.State == backends.EntryCopy {
		return nil, nil, shelf.NoHeadError(f.ID)
	}
	h, err := f.Head()
	if err != nil {
		return nil, nil, err
	}
	return p.snapshotHead(ctx, f, h)
}

// snapshotHead takes a snapshot of a head, which done destroys.
func (p *Pool) snapshotHead(ctx context.Context, f *shelf.Folder, h shelf.Head) (tree *os.File, done func(),
	err error) {
	name := shelf.Temp + uuid.NewString()
	if err := p.trees.Copy(ctx, f, h.Tree, f, name, true); err != nil {
		return nil, nil, err
	}
	destroy := func() { _ = p.trees.Destroy(context.WithoutCancel(ctx), f.Dir, name) }
	if tree, err = openSubvolume(f, name); err != nil {
		destroy()
		return nil, nil, err
	}
	return tree, func() { _ = tree.Close(); destroy() }, nil
}

// headEquals reports whether a head has the content of a snapshot. The folder may be that of a dataset or of a copy.
func (p *Pool) headEquals(ctx context.Context, f *shelf.Folder, h shelf.Head, snapshot uuid.UUID) (bool, error) {
	old, done, err := p.openPoint(ctx, f, dataset.Source{Snapshot: snapshot})
	if err != nil {
		return false, err
	}
	defer done()
	head, destroy, err := p.snapshotHead(ctx, f, h)
	if err != nil {
		return false, err
	}
	defer destroy()
	_, err = compareTrees(ctx, head, old, true)
	if errors.Is(err, btrfsctl.ErrDiffers) {
		return false, nil
	}
	return err == nil, err
}

// comparePoints lists the differences of two points in time of a dataset, or the content of newer if older is the zero
// value. If first is set, it fails with btrfsctl.ErrDiffers at the first difference.
func (p *Pool) comparePoints(ctx context.Context, f *shelf.Folder, older, newer dataset.Source,
	first bool) (c btrfsctl.Change, err error) {
	newerTree, done, err := p.openPoint(ctx, f, newer)
	if err != nil {
		return c, err
	}
	defer done()
	if older.Dataset == uuid.Nil {
		return compareTrees(ctx, newerTree, nil, first)
	}
	olderTree, oldDone, err := p.openPoint(ctx, f, older)
	if err != nil {
		return c, err
	}
	defer oldDone()
	return compareTrees(ctx, newerTree, olderTree, first)
}

// compareTrees returns the difference between two subvolumes, or the content of newerTree if olderTree is nil. It reads
// the kernel's stream without file data. For first see points.compare.
func compareTrees(ctx context.Context, newerTree, olderTree *os.File, first bool) (c btrfsctl.Change, err error) {
	r, w := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := btrfsctl.Send(ctx, newerTree, olderTree, false, w)
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
