package loop

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/safefile"
)

// Snapshot implements backends.Pool. It clones the image of the head, or gives it a second name, and flushes once.
func (p *Pool) Snapshot(ctx context.Context, s dataset.Snapshot, progress backends.Progress) (err error) {
	defer backends.Wrap(&err, "snapshot %s", s.ID)
	f, err := p.findHead(s.Dataset)
	if err != nil {
		return err
	}
	defer f.Close()
	dir := f.Dir
	if _, err := dir.Lstat(p.layout.Image(s.ID.String())); err == nil {
		return p.layout.Flush(dir) // an earlier attempt may have been interrupted before its flush
	}
	if s.Kind != dataset.SnapshotTransfer { // moving a dataset out of a full pool frees space
		if err := p.room(); err != nil {
			return err
		}
	}
	// A snapshot of a damaged head would be useless, and retention would delete intact snapshots because of it.
	if _, _, err := p.inspect(dir, headItem); err != nil {
		return err
	}
	if err = p.keep(ctx, dir, s); err == nil && progress != nil {
		progress(int64(s.Size), int64(s.Size))
	}
	return err
}

// keep takes the snapshot s of the head. The snapshot must not exist yet.
func (p *Pool) keep(ctx context.Context, dir safefile.Dir, s dataset.Snapshot) error {
	// The record is written first, because a snapshot without a record would be reported as damage.
	if err := p.records.Write(dir, snapshotRecord(s.ID), s); err != nil {
		return err
	}
	p.step("snapshot.recorded")
	var durable bool
	exact, err := backends.Frozen(ctx, func() (err error) {
		durable, err = p.keepHead(dir, s)
		return err
	})
	if err != nil {
		return errors.Join(err, p.dropSnapshot(context.WithoutCancel(ctx), dir, s.ID))
	}
	if exact {
		s.Exact = true
		if err := p.records.Write(dir, snapshotRecord(s.ID), s); err != nil {
			return err
		}
	}
	p.step("snapshot.shared")
	if durable {
		return nil
	}
	return p.layout.Flush(dir)
}

// keepHead makes the image of a snapshot, whose record exists, from the head.
func (p *Pool) keepHead(dir safefile.Dir, s dataset.Snapshot) (durable bool, err error) {
	// Snapshots of these kinds are mostly deleted before the head is written to, so they may share its image.
	if s.Kind == dataset.SnapshotTransfer || s.Kind == dataset.SnapshotSuperseded {
		if done, err := p.share(dir, s.ID.String(), headItem); err != nil || done {
			return false, err
		}
	}
	return p.layout.Clone(dir, s.ID.String(), dir, headItem, true)
}

// DeleteSnapshot implements backends.Pool. It flushes once, because otherwise a power cut could bring back a snapshot
// that the store has forgotten.
func (p *Pool) DeleteSnapshot(ctx context.Context, ds, snapshot uuid.UUID) (err error) {
	defer backends.Wrap(&err, "delete snapshot %s of dataset %s", snapshot, ds)
	f, err := p.FindDatasetOrCopy(ds)
	if errors.Is(err, dataset.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := p.dropRelated(f, snapshot); err != nil {
		return err
	}
	if err := p.dropSnapshot(ctx, f.Dir, snapshot); err != nil {
		return err
	}
	return p.layout.Flush(f.Dir)
}

// dropSnapshot removes a snapshot and its record. It returns nil if the snapshot does not exist.
func (p *Pool) dropSnapshot(ctx context.Context, dir safefile.Dir, snapshot uuid.UUID) error {
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
	return safefile.AbsentIsFine(dir.Remove(snapshotRecord(snapshot)))
}

// UniqueSize implements backends.SnapshotMeasurer. It reads the extents of the image, but not its data.
func (p *Pool) UniqueSize(ctx context.Context, ds, snapshot uuid.UUID) (size dataset.Size, err error) {
	defer backends.Wrap(&err, "measure snapshot %s of dataset %s", snapshot, ds)
	folder, err := p.FindDatasetOrCopy(ds)
	if err != nil {
		return 0, err
	}
	defer folder.Close()
	f, err := p.openSnapshot(folder.Dir, snapshot)
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
	progress backends.Progress) (err error) {
	defer backends.Wrap(&err, "restore dataset %s to snapshot %s", ds, snapshot)
	f, err := p.findHead(ds)
	lost := errors.Is(err, errNoHead)
	if lost {
		f, err = p.FindDataset(ds)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if lost {
		if err := p.replaceLost(f.Dir, snapshot); err != nil {
			return err
		}
	}
	size, err := p.restore(ctx, f.Dir, snapshot, keep)
	if err == nil && progress != nil && size > 0 {
		progress(size, size)
	}
	return err
}

// replaceLost makes an empty head in place of one whose image was deleted, so that a restore can replace it. It fails
// if there is no such snapshot.
func (p *Pool) replaceLost(dir safefile.Dir, snapshot uuid.UUID) error {
	if _, err := p.imageSize(dir, snapshot.String()); errors.Is(err, os.ErrNotExist) {
		return dataset.Errorf(dataset.ErrNotFound, "no such snapshot: %s", snapshot)
	} else if err != nil {
		return err
	}
	image, err := p.layout.Create(dir, headItem)
	if errors.Is(err, os.ErrExist) { // of the subvolume only the image was deleted
		image, err = dir.OpenFile(p.layout.Image(headItem), os.O_CREATE|os.O_EXCL|os.O_RDWR)
	}
	if err != nil {
		return err
	}
	return image.Close()
}

// restore restores the head in dir to a snapshot, unless an earlier attempt with the same keep has restored it. It
// returns the size of the image in bytes, or 0 if the earlier attempt was complete.
func (p *Pool) restore(ctx context.Context, dir safefile.Dir, snapshot uuid.UUID, keep dataset.Snapshot) (
	size int64, err error) {
	keptItem := keep.ID.String()
	done, err := p.restored(dir, keep.ID)
	if err != nil {
		return 0, err
	}
	if !done {
		if size, err = p.imageSize(dir, snapshot.String()); errors.Is(err, os.ErrNotExist) {
			return 0, dataset.Errorf(dataset.ErrNotFound, "no such snapshot: %s", snapshot)
		}
		if err == nil {
			_, _, err = p.inspect(dir, snapshot.String())
		}
		if err == nil {
			err = p.release(ctx, dir, false)
		}
		if err == nil {
			err = p.restoreHead(ctx, dir, snapshot.String(), keep)
		}
		if err != nil {
			return 0, err
		}
	}
	// An interrupted earlier attempt may not have called Protect.
	if err := safefile.AbsentIsFine(p.layout.Protect(dir, keptItem)); err != nil {
		return 0, err
	}
	return size, p.layout.Flush(dir)
}

// restoreHead makes the head a clone of item, and the present head the snapshot keep.
func (p *Pool) restoreHead(ctx context.Context, dir safefile.Dir, item string, keep dataset.Snapshot) error {
	if err := p.dropSnapshot(ctx, dir, keep.ID); err != nil {
		return fmt.Errorf("remove what an earlier attempt left as snapshot %s: %w", keep.ID, err)
	}
	if err := p.room(); err != nil {
		return err
	}
	if err := p.records.Write(dir, snapshotRecord(keep.ID), keep); err != nil {
		return err
	}
	p.step("restore.recorded")
	err := p.prepareHead(dir, item, func(image *os.File) error {
		p.step("restore.cloned")
		if err := p.verifyClone(dir, item, nextItem); err != nil {
			return err
		}
		if err := p.growAsHead(ctx, dir, item, image); err != nil {
			return err
		}
		return setTag(image, restoredAttr, keep.ID)
	})
	if err == nil {
		err = p.tagKept(dir, keep.ID)
	}
	if err != nil {
		return errors.Join(err, dir.Remove(snapshotRecord(keep.ID)))
	}
	if err := p.layout.Rename(dir, nextItem, keep.ID.String()); err != nil {
		return err
	}
	p.step("restore.named")
	if err := p.layout.Swap(dir, headItem, keep.ID.String()); err != nil {
		return err
	}
	p.step("restore.swapped")
	return nil
}

// growAsHead grows the image of next, a clone of the snapshot item, to the size of the present head. The head may have
// grown since the snapshot was taken. A restore does not open containers: the filesystem in a container grows at the
// next mount.
func (p *Pool) growAsHead(ctx context.Context, dir safefile.Dir, item string, image *os.File) error {
	size, err := p.imageSize(dir, headItem)
	source, sErr := p.sizeOf(dir, item)
	if err := errors.Join(err, sErr); err != nil {
		return err
	}
	_, _, err = p.inspect(dir, headItem)
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
	return p.growIdle(ctx, dir, nextItem, size)
}
