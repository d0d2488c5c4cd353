package btrfs

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/stream"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
)

// Send implements backends.Sender. It sends the kernel's stream of two subvolumes, which is the same each time because
// these subvolumes never change.
func (p *Pool) Send(ctx context.Context, src dataset.Source, base uuid.UUID, from int64, w io.Writer,
	progress backends.Progress) (out backends.Stream, err error) {
	defer backends.Wrap(&err, "send snapshot %s of dataset %s", src.Snapshot, src.Dataset)
	f, err := p.FindDatasetOrCopy(src.Dataset)
	if err != nil {
		return out, err
	}
	defer f.Close()
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
	c, err := p.changed(ctx, older, newer, false)
	return backends.Change{Bytes: c.Bytes, Ranges: c.Ranges}, err
}

// Same implements backends.Sender.
func (p *Pool) Same(ctx context.Context, ds, a, b uuid.UUID) (bool, error) {
	older, newer := dataset.Source{Dataset: ds, Snapshot: a}, dataset.Source{Dataset: ds, Snapshot: b}
	_, err := p.changed(ctx, older, newer, true)
	if errors.Is(err, btrfsctl.ErrDiffers) {
		return false, nil
	}
	return err == nil, err
}

// changed compares two points in time of one dataset; see points.compare.
func (p *Pool) changed(ctx context.Context, older, newer dataset.Source,
	first bool) (c btrfsctl.Change, err error) {
	defer backends.Wrap(&err, "compare two snapshots of dataset %s", newer.Dataset)
	if older.Dataset != uuid.Nil && older.Dataset != newer.Dataset {
		return c, dataset.Errorf(dataset.ErrUnsupported, "they belong to different datasets")
	}
	f, err := p.Shelf.FindDatasetOrCopy(newer.Dataset)
	if err != nil {
		return c, err
	}
	defer f.Close()
	return p.comparePoints(ctx, f, older, newer, first)
}
