package loop

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/safefile"
)

// snapshots takes and deletes the snapshots of a dataset, and restores them.
type snapshots struct {
	*images
	room     func() error
	records  recordWriter
	attacher *attacher
	grower   *grower
}

// Snapshot implements backends.Pool. It clones the image of the head, or gives it a second name, and flushes once.
func (p *Pool) Snapshot(ctx context.Context, s dataset.Snapshot, progress backends.Progress) error {
	err := p.withDataset(s.Dataset, func(f *shelf.Folder) error { return p.snapshots.take(ctx, f.Dir, s) })
	if err != nil {
		return err
	}
	if progress != nil {
		progress(int64(s.Size), int64(s.Size))
	}
	return nil
}

// take makes a snapshot of the head if the snapshot does not exist.
func (sn *snapshots) take(ctx context.Context, dir safefile.Dir, s dataset.Snapshot) error {
	if _, err := dir.Lstat(sn.layout.Image(s.ID.String())); err == nil {
		return sn.layout.Flush(dir) // an earlier attempt may have been interrupted before its flush
	}
	if s.Kind != dataset.SnapshotTransfer { // moving a dataset out of a full pool frees space
		if err := sn.room(); err != nil {
			return err
		}
	}
	// A snapshot of a damaged head would be useless, and retention would delete intact snapshots because of it.
	if _, _, err := sn.Inspect(dir, headItem); err != nil {
		return err
	}
	return sn.keep(ctx, dir, s)
}

// keep takes the snapshot s of the head. The snapshot must not exist yet.
func (sn *snapshots) keep(ctx context.Context, dir safefile.Dir, s dataset.Snapshot) error {
	// The record is written first, because a snapshot without a record would be reported as damage.
	if err := sn.records.Write(dir, snapshotRecord(s.ID), s); err != nil {
		return err
	}
	sn.step("snapshot.recorded")
	var durable bool
	exact, err := backends.Frozen(ctx, func() (err error) {
		durable, err = sn.keepHead(dir, s)
		return err
	})
	if err != nil {
		return errors.Join(err, dir.Remove(snapshotRecord(s.ID)))
	}
	if exact {
		s.Exact = true
		if err := sn.records.Write(dir, snapshotRecord(s.ID), s); err != nil {
			return err
		}
	}
	sn.step("snapshot.shared")
	if durable {
		return nil
	}
	return sn.layout.Flush(dir)
}

// keepHead makes the image of a snapshot, whose record exists, from the head.
func (sn *snapshots) keepHead(dir safefile.Dir, s dataset.Snapshot) (durable bool, err error) {
	if mayShare(s.Kind) {
		if done, err := sn.Share(dir, s.ID.String(), headItem); err != nil || done {
			return false, err
		}
	}
	return sn.layout.Clone(dir, s.ID.String(), dir, headItem, true)
}

// DeleteSnapshot implements backends.Pool. It flushes once, because otherwise a power cut could bring back a snapshot
// that the store has forgotten.
func (p *Pool) DeleteSnapshot(ctx context.Context, ds, snapshot uuid.UUID) error {
	err := p.withDatasetOrCopy(ds, func(f *shelf.Folder) error {
		if err := p.copier.dropRelated(f, snapshot); err != nil {
			return err
		}
		if err := p.snapshots.drop(ctx, f.Dir, snapshot); err != nil {
			return err
		}
		return p.layout.Flush(f.Dir)
	})
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return fmt.Errorf("delete snapshot %s of dataset %s: %w", snapshot, ds, err)
	}
	return nil
}

// drop removes a snapshot and its record. It returns nil if the snapshot does not exist.
func (sn *snapshots) drop(ctx context.Context, dir safefile.Dir, snapshot uuid.UUID) error {
	inode, shared, err := sn.SharesHead(dir, snapshot)
	if err != nil {
		return err
	}
	if shared {
		err = sn.removeShared(ctx, dir, snapshot.String(), inode)
	} else {
		err = sn.layout.Remove(dir, snapshot.String())
	}
	if err != nil {
		return err
	}
	sn.step("snapshot-delete.removed")
	return safefile.AbsentIsFine(dir.Remove(snapshotRecord(snapshot)))
}

// UniqueSize implements backends.SnapshotMeasurer. It reads the extents of the image, but not its data.
func (p *Pool) UniqueSize(ctx context.Context, ds, snapshot uuid.UUID) (size dataset.Size, err error) {
	err = p.withDatasetOrCopy(ds, func(f *shelf.Folder) error {
		size, err = p.snapshots.uniqueSize(ctx, f.Dir, snapshot)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("measure snapshot %s of dataset %s: %w", snapshot, ds, err)
	}
	return size, nil
}

// uniqueSize does the work of UniqueSize for an open directory.
func (sn *snapshots) uniqueSize(ctx context.Context, dir safefile.Dir, snapshot uuid.UUID) (dataset.Size, error) {
	f, err := dir.Open(sn.layout.Image(snapshot.String()))
	if errors.Is(err, os.ErrNotExist) {
		return 0, dataset.Errorf(dataset.ErrNotFound, "no such snapshot: %s", snapshot)
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Nlink > 1 {
		return 0, err // the head or another snapshot is the same file, so deleting this name frees nothing
	}
	bytes, err := reflink.Unshared(ctx, f)
	return dataset.Size(bytes), err
}

// A restore has two steps. First it makes the future head, as a clone of the restored snapshot. The clone gets the name
// of keep, the snapshot that will have the content of the present head. Then it exchanges the two names: the clone
// becomes the head, and the present head becomes the snapshot keep. So keep has the content of the head at the moment
// of the exchange, even if the head was written to since an earlier attempt. Before the exchange, the name of keep
// belongs to the future head, so the snapshot is not shown to readers.

// Restore implements backends.Pool. It clones the image of the snapshot, compares the clone with that image, and
// exchanges the clone with the head in one step.
func (p *Pool) Restore(ctx context.Context, ds, snapshot uuid.UUID, keep dataset.Snapshot,
	progress backends.Progress) error {
	var size int64
	restore := func() error {
		return p.withDataset(ds, func(f *shelf.Folder) (err error) {
			size, err = p.snapshots.restore(ctx, f.Dir, snapshot, keep)
			return err
		})
	}
	err := restore()
	if errors.Is(err, errNoHead) {
		err = p.withDatasetOrCopy(ds, func(f *shelf.Folder) error { return p.snapshots.replaceLost(f.Dir, snapshot) })
		if err == nil {
			err = restore()
		}
	}
	if err != nil {
		return fmt.Errorf("restore dataset %s to snapshot %s: %w", ds, snapshot, err)
	}
	if progress != nil && size > 0 {
		progress(size, size)
	}
	return nil
}

// replaceLost makes an empty head in place of one whose image was deleted, so that a restore can replace it. It fails
// if there is no such snapshot.
func (sn *snapshots) replaceLost(dir safefile.Dir, snapshot uuid.UUID) error {
	if _, err := sn.Size(dir, snapshot.String()); errors.Is(err, os.ErrNotExist) {
		return dataset.Errorf(dataset.ErrNotFound, "no such snapshot: %s", snapshot)
	} else if err != nil {
		return err
	}
	image, err := sn.layout.Create(dir, headItem)
	if errors.Is(err, os.ErrExist) { // of the subvolume only the image was deleted
		image, err = dir.OpenFile(sn.layout.Image(headItem), os.O_CREATE|os.O_EXCL|os.O_RDWR)
	}
	if err != nil {
		return err
	}
	return image.Close()
}

// restore restores the head in dir to a snapshot, unless an earlier attempt with the same keep has restored it. It
// returns the size of the image in bytes, or 0 if the earlier attempt was complete.
func (sn *snapshots) restore(
	ctx context.Context,
	dir safefile.Dir,
	snapshot uuid.UUID,
	keep dataset.Snapshot,
) (size int64, err error) {
	keptItem := keep.ID.String()
	done, err := sn.Restored(dir, keep.ID)
	if err != nil {
		return 0, err
	}
	if !done {
		if size, err = sn.Size(dir, snapshot.String()); errors.Is(err, os.ErrNotExist) {
			return 0, dataset.Errorf(dataset.ErrNotFound, "no such snapshot: %s", snapshot)
		}
		if err == nil {
			_, _, err = sn.Inspect(dir, snapshot.String())
		}
		if err == nil {
			err = sn.attacher.Release(ctx, dir, false)
		}
		if err == nil {
			err = sn.restoreHead(ctx, dir, snapshot.String(), keep)
		}
		if err != nil {
			return 0, err
		}
	}
	// An interrupted earlier attempt may not have called Protect.
	if err := safefile.AbsentIsFine(sn.layout.Protect(dir, keptItem)); err != nil {
		return 0, err
	}
	return size, sn.layout.Flush(dir)
}

// restoreHead makes the head a clone of item, and the present head the snapshot keep.
func (sn *snapshots) restoreHead(ctx context.Context, dir safefile.Dir, item string, keep dataset.Snapshot) error {
	if err := sn.drop(ctx, dir, keep.ID); err != nil {
		return fmt.Errorf("remove what an earlier attempt left as snapshot %s: %w", keep.ID, err)
	}
	if err := sn.room(); err != nil {
		return err
	}
	if err := sn.records.Write(dir, snapshotRecord(keep.ID), keep); err != nil {
		return err
	}
	sn.step("restore.recorded")
	err := sn.prepareHead(dir, item, func(image *os.File) error {
		sn.step("restore.cloned")
		if err := sn.VerifyClone(dir, item, nextItem); err != nil {
			return err
		}
		if err := sn.growAsHead(ctx, dir, item, image); err != nil {
			return err
		}
		return setTag(image, restoredAttr, keep.ID)
	})
	if err == nil {
		err = sn.TagKept(dir, keep.ID)
	}
	if err != nil {
		return errors.Join(err, dir.Remove(snapshotRecord(keep.ID)))
	}
	if err := sn.layout.Rename(dir, nextItem, keep.ID.String()); err != nil {
		return err
	}
	sn.step("restore.named")
	if err := sn.layout.Swap(dir, headItem, keep.ID.String()); err != nil {
		return err
	}
	sn.step("restore.swapped")
	return nil
}

// growAsHead grows the image of next, a clone of the snapshot item, to the size of the present head. The head may have
// grown since the snapshot was taken. A restore does not open containers: the filesystem in a container grows at the
// next mount.
func (sn *snapshots) growAsHead(ctx context.Context, dir safefile.Dir, item string, image *os.File) error {
	size, err := sn.Size(dir, headItem)
	source, sErr := sn.SizeOf(dir, item)
	if err := errors.Join(err, sErr); err != nil {
		return err
	}
	_, _, err = sn.Inspect(dir, headItem)
	if errors.Is(err, dataset.ErrCorrupt) { // the end of its image may be missing
		if recorded, _ := recordedSize(dir, headItem); recorded > source.Size {
			size = max(size, source.ImageFor(recorded))
		}
	}
	switch {
	case size <= source.Image:
		return nil
	case source.Encrypted:
		return image.Truncate(size)
	}
	return sn.grower.GrowIdle(ctx, dir, nextItem, size)
}
