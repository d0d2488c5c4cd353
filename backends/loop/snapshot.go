package loop

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/attach"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/growth"
	"github.com/droverhq/drover/backends/loop/imagefile"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
)

// snapshots takes and deletes the snapshots of a dataset, and restores them.
type snapshots struct {
	home     *home
	layout   layout.Layout
	records  layout.RecordWriter
	images   *imagefile.Images
	heads    *imagefile.Heads
	sharing  *imagefile.Sharing
	attacher *attach.Attacher
	grower   *growth.Grower
	step     func(string)
}

// Snapshot implements backends.Pool. It shares one image and flushes once.
func (p *Pool) Snapshot(_ context.Context, s dataset.Snapshot, progress backends.Progress) error {
	err := p.catalog.within(s.Dataset, func(dir folder.Dir) error { return p.snapshots.take(dir, s) })
	if err != nil {
		return err
	}
	if progress != nil {
		progress(int64(s.Size), int64(s.Size))
	}
	return nil
}

// take makes a snapshot of the head if the snapshot does not exist.
func (sn *snapshots) take(dir folder.Dir, s dataset.Snapshot) error {
	if _, err := dir.Lstat(sn.layout.Image(s.ID.String())); err == nil {
		return sn.layout.Flush(dir) // an earlier attempt may have been interrupted before its flush
	}
	if s.Kind != dataset.SnapshotTransfer { // a transfer from a full pool makes room in it
		if err := sn.home.room(dir); err != nil {
			return err
		}
	}
	// A snapshot of a damaged head would be useless, and a schedule would delete intact snapshots in favour of it.
	if _, _, err := sn.images.Inspect(dir, layout.Head); err != nil {
		return err
	}
	return sn.keep(dir, s)
}

// keep makes the head a snapshot that does not exist yet.
func (sn *snapshots) keep(dir folder.Dir, s dataset.Snapshot) error {
	// The record is written first, because a snapshot without a record would be reported as damage.
	if err := sn.records.Write(dir, layout.SnapshotRecord(s.ID), s); err != nil {
		return err
	}
	sn.step("snapshot.recorded")
	durable, err := sn.keepHead(dir, s)
	if err != nil {
		return errors.Join(err, dir.Remove(layout.SnapshotRecord(s.ID)))
	}
	sn.step("snapshot.shared")
	if durable {
		return nil
	}
	return sn.layout.Flush(dir)
}

// keepHead makes the image of a snapshot, whose record exists, from the head.
func (sn *snapshots) keepHead(dir folder.Dir, s dataset.Snapshot) (durable bool, err error) {
	if imagefile.MayShare(s.Kind) {
		if done, err := sn.sharing.Share(dir, s.ID.String(), layout.Head); err != nil || done {
			return false, err
		}
	}
	return sn.layout.Clone(dir, s.ID.String(), dir, layout.Head, true)
}

// DeleteSnapshot implements backends.Pool. It flushes once, because otherwise a power cut could bring back a snapshot
// that the store has forgotten.
func (p *Pool) DeleteSnapshot(ctx context.Context, ds, snapshot uuid.UUID) error {
	err := p.catalog.withinAny(ds, func(dir folder.Dir, place string) error {
		if err := p.copier.dropRelated(dir, place, snapshot); err != nil {
			return err
		}
		if err := p.snapshots.drop(ctx, dir, snapshot); err != nil {
			return err
		}
		return p.layout.Flush(dir)
	})
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return fmt.Errorf("delete snapshot %s of dataset %s: %w", snapshot, ds, err)
	}
	return nil
}

// drop removes a snapshot and its record, if it exists.
func (sn *snapshots) drop(ctx context.Context, dir folder.Dir, snapshot uuid.UUID) error {
	inode, shared, err := sn.sharing.SharesHead(dir, snapshot)
	if err != nil {
		return err
	}
	if shared {
		err = sn.sharing.Remove(ctx, dir, snapshot.String(), inode)
	} else {
		err = sn.layout.Remove(dir, snapshot.String())
	}
	if err != nil {
		return err
	}
	sn.step("snapshot-delete.removed")
	return folder.AbsentIsFine(dir.Remove(layout.SnapshotRecord(snapshot)))
}
