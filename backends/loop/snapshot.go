package loop

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/reflink"
)

// Snapshot implements backends.Pool: one shared image, one flush.
func (p *Pool) Snapshot(_ context.Context, s dataset.Snapshot, progress backends.Progress) error {
	err := p.within(s.Dataset, func(dir folder.Dir) error { return p.snapshot(dir, s) })
	if err != nil {
		return err
	}
	if progress != nil {
		progress(int64(s.Size), int64(s.Size))
	}
	return nil
}

func (p *Pool) snapshot(dir folder.Dir, s dataset.Snapshot) error {
	if _, err := dir.Lstat(p.layout.Image(s.ID.String())); err == nil {
		return p.layout.Flush(dir) // an earlier try may have been cut short before its own
	}
	if s.Kind != dataset.SnapshotTransfer { // what leaves a full pool makes room there
		if err := p.room(dir); err != nil {
			return err
		}
	}
	// What is damaged is none, and would push out by a schedule what is not.
	if _, _, err := p.inspect(dir, layout.Head); err != nil {
		return err
	}
	return p.keep(dir, s)
}

// keep makes the head a snapshot that is not there.
func (p *Pool) keep(dir folder.Dir, s dataset.Snapshot) error {
	// The record goes first: a snapshot without one would be a stranger.
	if err := p.records.Write(dir, layout.SnapshotRecord(s.ID), s); err != nil {
		return err
	}
	p.step("snapshot.recorded")
	durable, err := p.keepHead(dir, s)
	if err != nil {
		return errors.Join(err, dir.Remove(layout.SnapshotRecord(s.ID)))
	}
	p.step("snapshot.shared")
	if durable {
		return nil
	}
	return p.layout.Flush(dir)
}

// keepHead makes a snapshot of the head, with its record there.
func (p *Pool) keepHead(dir folder.Dir, s dataset.Snapshot) (durable bool, err error) {
	if shares(s.Kind) {
		if done, err := p.share(dir, s.ID.String(), layout.Head); err != nil || done {
			return false, err
		}
	}
	return p.layout.Clone(dir, s.ID.String(), dir, layout.Head, true)
}

// DeleteSnapshot implements backends.Pool: one flush, or a power cut could bring back
// what the store has forgotten.
func (p *Pool) DeleteSnapshot(ctx context.Context, ds, snapshot uuid.UUID) error {
	err := p.withinAny(ds, func(dir folder.Dir, place string) error {
		if err := p.forget(dir, place, snapshot); err != nil {
			return err
		}
		if err := p.dropSnapshot(ctx, dir, snapshot); err != nil {
			return err
		}
		return p.layout.Flush(dir)
	})
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return fmt.Errorf("delete snapshot %s of dataset %s: %w", snapshot, ds, err)
	}
	return nil
}

// dropSnapshot removes a snapshot with its record, if it is there.
func (p *Pool) dropSnapshot(ctx context.Context, dir folder.Dir, snapshot uuid.UUID) error {
	inode, shared, err := p.sharesHead(dir, snapshot)
	if err != nil {
		return err
	}
	if shared {
		err = p.removeShared(ctx, dir, snapshot.String(), inode)
	} else {
		err = p.layout.Remove(dir, snapshot.String())
	}
	if err != nil {
		return err
	}
	p.step("snapshot-delete.removed")
	return folder.AbsentIsFine(dir.Remove(layout.SnapshotRecord(snapshot)))
}

// same fails with ErrCorrupt when a clone differs from its source.
func (p *Pool) same(dir folder.Dir, source, clone string) error {
	equal, err := p.equal(dir, source, clone)
	if err == nil && !equal {
		err = dataset.Errorf(dataset.ErrCorrupt, "the clone of %s differs from it: the head was left as it is",
			dir.Path(p.layout.Image(source)))
	}
	return err
}

// equal tells whether two items have the same bytes, by their extents.
func (p *Pool) equal(dir folder.Dir, a, b string) (bool, error) {
	fa, err := dir.Open(p.layout.Image(a))
	if err != nil {
		return false, err
	}
	defer fa.Close()
	fb, err := dir.Open(p.layout.Image(b))
	if err != nil {
		return false, err
	}
	defer fb.Close()
	return reflink.Same(fa, fb)
}
