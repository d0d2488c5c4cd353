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
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
)

// sender sends snapshots.
type sender struct {
	shelf  *shelf.Shelf
	points *points
}

// Send implements backends.Sender. It sends the kernel's stream of two subvolumes, which is the same each time because
// these subvolumes never change.
func (p *Pool) Send(ctx context.Context, src dataset.Source, base uuid.UUID, from int64, w io.Writer,
	progress backends.Progress) (backends.Stream, error) {
	return p.shelf.Send(src, func(f *shelf.Folder) (backends.Stream, error) {
		return p.sender.send(ctx, f, src, base, from, w, progress)
	})
}

// send does the work of Send.
func (s *sender) send(ctx context.Context, f *shelf.Folder, src dataset.Source, base uuid.UUID, from int64,
	w io.Writer, progress backends.Progress) (out backends.Stream, err error) {
	snapshot, err := f.ReadSnapshot(src.Snapshot)
	if err != nil {
		return out, err
	}
	tree, err := openReadOnly(f, snapshot)
	if err != nil {
		return out, err
	}
	defer tree.Close()
	var old *os.File
	if base != uuid.Nil {
		b, err := f.ReadSnapshot(base)
		if err != nil {
			return out, err
		}
		if old, err = openReadOnly(f, b); err != nil {
			return out, err
		}
		defer old.Close()
	}
	h := stream.Header{Kind: Name, Dataset: src.Dataset, Snapshot: src.Snapshot, Base: base, Size: snapshot.Limit}
	return stream.Send(w, h, from, progress, func(w io.Writer) error { return btrfsctl.Send(ctx, tree, old, true, w) })
}

// Changed implements backends.Sender. The kernel lists the differences of two subvolumes without their data.
func (p *Pool) Changed(ctx context.Context, older, newer dataset.Source) (backends.Change, error) {
	c, err := p.sender.changed(ctx, older, newer, false)
	if err != nil {
		return backends.Change{}, fmt.Errorf("compare two snapshots of dataset %s: %w", newer.Dataset, err)
	}
	return backends.Change{Bytes: c.Bytes, Ranges: c.Ranges}, nil
}

// Same implements backends.Sender.
func (p *Pool) Same(ctx context.Context, ds, a, b uuid.UUID) (bool, error) {
	older, newer := dataset.Source{Dataset: ds, Snapshot: a}, dataset.Source{Dataset: ds, Snapshot: b}
	_, err := p.sender.changed(ctx, older, newer, true)
	if errors.Is(err, btrfsctl.ErrDiffers) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("compare two snapshots of dataset %s: %w", ds, err)
	}
	return true, nil
}

// changed compares two points in time of one dataset; see points.compare.
func (s *sender) changed(ctx context.Context, older, newer dataset.Source,
	first bool) (c btrfsctl.Change, err error) {
	if older.Dataset != uuid.Nil && older.Dataset != newer.Dataset {
		return c, dataset.Errorf(dataset.ErrUnsupported, "they belong to different datasets")
	}
	f, err := s.shelf.FindDatasetOrCopy(newer.Dataset)
	if err != nil {
		return c, err
	}
	defer f.Close()
	return s.points.compare(ctx, f, older, newer, first)
}
