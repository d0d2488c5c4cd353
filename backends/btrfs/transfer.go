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
	"github.com/droverhq/drover/internal/linux/fsctl"
)

// Received implements backends.Copier.
func (p *Pool) Received(_ context.Context, ds, snapshot uuid.UUID) (backends.Received, error) {
	return p.Shelf.Received(ds, snapshot, receivedStream)
}

// receivedStream describes the stream of a complete snapshot.
func receivedStream(f *shelf.Folder, snapshot uuid.UUID) (backends.Stream, error) {
	s, err := f.ReadSnapshot(snapshot)
	return s.Stream, err
}

// Receive implements backends.Copier.
func (p *Pool) Receive(ctx context.Context, d backends.Delivery, r io.Reader,
	progress backends.Progress) (out backends.Stream, err error) {
	defer backends.Wrap(&err, "receive snapshot %s of dataset %s", d.Snapshot.ID, d.Dataset.ID)
	defer func() { err = backends.NoSpace(err) }()
	f, err := p.Shelf.MakeCopy(d.Dataset, p.Room)
	if err != nil {
		return out, err
	}
	defer f.Close()
	p.step("btrfs.receive.copy")
	out, complete, err := f.BeginReceive(d, receivedStream)
	if err != nil || complete {
		return out, err
	}
	if err := p.Room(); err != nil {
		return out, err
	}
	base := func(id uuid.UUID) error {
		b, err := f.ReadSnapshot(id)
		if err == nil && b.Stream.Sum != "" {
			err = checkBase(f, b)
		}
		return err
	}
	if err := p.dropHead(ctx, f); err != nil {
		return out, err
	}
	s := f.Spool(func(int64) error { return p.roomFor(0) }, p.step)
	if out, err = s.Receive(ctx, d, Name, r, progress, base); err != nil {
		return out, err
	}
	p.step("btrfs.receive.gathered")
	if err := p.roomFor(out.Bytes); err != nil {
		return out, err
	}
	if err := p.applyStream(ctx, f, shelf.TreeOf(d.Snapshot.ID), d.Base); err != nil {
		if errors.Is(err, dataset.ErrCorrupt) {
			err = errors.Join(err, stream.Drop(f.Dir))
		}
		return out, errors.Join(err, p.trees.Destroy(context.WithoutCancel(ctx), f.Dir, shelf.TreeOf(d.Snapshot.ID)))
	}
	p.step("btrfs.receive.durable")
	if err := f.WriteSnapshot(shelf.SnapshotRecord{
		Snapshot: d.Snapshot,
		Tree:     shelf.TreeOf(d.Snapshot.ID),
		Limit:    out.Size,
		Stream:   out,
	}); err != nil {
		return out, err
	}
	p.step("btrfs.receive.recorded")
	return out, stream.Drop(f.Dir)
}

// applyStream makes a tree from the gathered stream. If the stream is a difference, the tree starts as a snapshot of
// the base.
func (p *Pool) applyStream(ctx context.Context, f *shelf.Folder, name string, base uuid.UUID) error {
	if err := p.trees.Destroy(ctx, f.Dir, name); err != nil {
		return err
	}
	var old *os.File
	if base != uuid.Nil {
		b, err := f.ReadSnapshot(base)
		if err != nil {
			return err
		}
		if old, err = openReadOnly(f, b); err != nil {
			return err
		}
		defer old.Close()
		err = btrfsctl.Snapshot(f.File, name, old, false)
		if err != nil {
			return backends.NoSpace(err)
		}
	} else if err := backends.NoSpace(btrfsctl.Create(f.File, name)); err != nil {
		return err
	}
	p.step("btrfs.receive.begun")
	tree, err := openSubvolume(f, name)
	if err != nil {
		return err
	}
	defer tree.Close()
	// A snapshot of the base has the limit of the base. The received content may be larger, so the limit is removed.
	if err := p.quota.Assign(tree, 0); err != nil {
		return err
	}
	stream, err := f.Dir.Open(stream.File)
	if err != nil {
		return err
	}
	defer stream.Close()
	err = btrfsctl.Apply(ctx, stream, tree, old)
	if errors.Is(err, btrfsctl.ErrBase) {
		err = fmt.Errorf("%w: %w", backends.ErrBaseDiffers, err)
	}
	if errors.Is(err, btrfsctl.ErrStream) {
		err = dataset.Errorf(dataset.ErrCorrupt, "%w", err)
	}
	if err != nil {
		return backends.NoSpace(err)
	}
	p.step("btrfs.receive.applied")
	if err := btrfsctl.SetReadOnly(tree); err != nil {
		return err
	}
	return fsctl.Sync(tree)
}

// checkBase fails with backends.ErrBaseDiffers if the received base has no recorded identity. The stream of a
// difference names its base by this identity.
func checkBase(f *shelf.Folder, s shelf.SnapshotRecord) error {
	dir, err := openReadOnly(f, s)
	if err != nil {
		return err
	}
	defer dir.Close()
	if received, err := btrfsctl.ReceivedUUID(dir); err != nil || received != uuid.Nil {
		return err
	}
	return dataset.Errorf(dataset.ErrCorrupt, "%w: the origin of received snapshot %s was not recorded",
		backends.ErrBaseDiffers, s.ID)
}

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
