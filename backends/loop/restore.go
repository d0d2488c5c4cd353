package loop

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/imagefile"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
)

// A restore makes the future head under the name of the snapshot that will keep the present head, and then exchanges
// the two names. So the snapshot keeps the head as it is at the moment of the exchange, whatever was written to it
// since an earlier attempt. Until then the snapshot does not exist for readers, who could otherwise see it with other
// bytes.

// Restore implements backends.Pool. It compares a clone with its source and exchanges the clone with the head in one
// step.
func (p *Pool) Restore(ctx context.Context, ds, snapshot uuid.UUID, keep dataset.Snapshot,
	progress backends.Progress) error {
	var size int64
	err := p.catalog.within(ds, func(dir folder.Dir) (err error) {
		size, err = p.snapshots.restore(ctx, dir, snapshot, keep)
		return err
	})
	if err != nil {
		return fmt.Errorf("restore dataset %s to snapshot %s: %w", ds, snapshot, err)
	}
	if progress != nil && size > 0 {
		progress(size, size)
	}
	return nil
}

// restore restores the head in dir to a snapshot, unless an earlier attempt with the same keep has done so. It
// returns the size of the image.
func (sn *snapshots) restore(
	ctx context.Context,
	dir folder.Dir,
	snapshot uuid.UUID,
	keep dataset.Snapshot,
) (size int64, err error) {
	kept := keep.ID.String()
	done, err := sn.images.Restored(dir, keep.ID)
	if err != nil {
		return 0, err
	}
	if !done {
		if size, err = sn.images.Size(dir, snapshot.String()); errors.Is(err, os.ErrNotExist) {
			return 0, dataset.Errorf(dataset.ErrNotFound, "there is no snapshot %s", snapshot)
		}
		if err == nil {
			_, _, err = sn.images.Inspect(dir, snapshot.String())
		}
		if err == nil {
			err = sn.attacher.Idle(ctx, dir)
		}
		if err == nil {
			err = sn.replaceHead(ctx, dir, snapshot.String(), keep)
		}
		if err != nil {
			return 0, err
		}
	}
	// An earlier attempt may have been interrupted before this.
	if err := folder.AbsentIsFine(sn.layout.Protect(dir, kept)); err != nil {
		return 0, err
	}
	return size, sn.layout.Flush(dir)
}

// replaceHead makes the head a clone of item, and the present head the snapshot keep.
func (sn *snapshots) replaceHead(ctx context.Context, dir folder.Dir, item string, keep dataset.Snapshot) error {
	if err := sn.drop(ctx, dir, keep.ID); err != nil {
		return fmt.Errorf("remove what an earlier try has left as snapshot %s: %w", keep.ID, err)
	}
	if err := sn.home.room(dir); err != nil {
		return err
	}
	if err := sn.records.Write(dir, layout.SnapshotRecord(keep.ID), keep); err != nil {
		return err
	}
	sn.step("restore.recorded")
	err := sn.heads.Prepare(dir, item, func(image *os.File) error {
		sn.step("restore.cloned")
		if err := sn.images.Same(dir, item, layout.Next); err != nil {
			return err
		}
		if err := sn.growAsHead(ctx, dir, item, image); err != nil {
			return err
		}
		return imagefile.SetTag(image, imagefile.RestoredAttr, keep.ID)
	})
	if err == nil {
		err = sn.images.TagKept(dir, keep.ID)
	}
	if err != nil {
		return errors.Join(err, dir.Remove(layout.SnapshotRecord(keep.ID)))
	}
	if err := sn.layout.Rename(dir, layout.Next, keep.ID.String()); err != nil {
		return err
	}
	sn.step("restore.named")
	if err := sn.layout.Swap(dir, layout.Head, keep.ID.String()); err != nil {
		return err
	}
	sn.step("restore.swapped")
	return nil
}

// growAsHead makes the image of next as large as the head, which can have grown since item was taken. next is a clone
// of item. A restore does not open containers: the filesystem in a container grows at the next mount.
func (sn *snapshots) growAsHead(ctx context.Context, dir folder.Dir, item string, image *os.File) error {
	size, err := sn.images.Size(dir, layout.Head)
	have, sErr := sn.images.SizeOf(dir, item)
	if err := errors.Join(err, sErr); err != nil {
		return err
	}
	_, _, err = sn.images.Inspect(dir, layout.Head)
	if errors.Is(err, dataset.ErrCorrupt) { // its end may be missing
		if was, _ := imagefile.RecordedSize(dir, layout.Head); imagefile.RoundUp(was) > have.Size {
			size = max(size, have.ImageFor(imagefile.RoundUp(was)))
		}
	}
	switch {
	case size <= have.Image:
		return nil
	case have.Encrypted:
		return image.Truncate(size)
	}
	return sn.grower.GrowIdle(ctx, dir, layout.Next, size)
}
