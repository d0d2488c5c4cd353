package loop

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
)

// A restore makes what is to be the head under the name of the snapshot that is to keep the
// head, and then exchanges the two names. So what is kept is the head as it was at that very
// moment, whatever was written to it since an earlier try; and until then there is no such
// snapshot, which others could have seen with other bytes in it.

// Restore implements backends.Pool: a clone that was compared with its source is exchanged
// with the head in one step.
func (p *Pool) Restore(ctx context.Context, ds, snapshot uuid.UUID, keep dataset.Snapshot,
	progress backends.Progress) error {
	var size int64
	err := p.within(ds, func(dir folder.Dir) (err error) {
		size, err = p.restore(ctx, dir, snapshot, keep)
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

func (p *Pool) restore(ctx context.Context, dir folder.Dir, snapshot uuid.UUID, keep dataset.Snapshot) (size int64,
	err error) {
	kept := keep.ID.String()
	done, err := p.restored(dir, keep.ID)
	if err != nil {
		return 0, err
	}
	if !done {
		if size, err = p.imageSize(dir, snapshot.String()); errors.Is(err, os.ErrNotExist) {
			return 0, dataset.Errorf(dataset.ErrNotFound, "there is no snapshot %s", snapshot)
		}
		if err == nil {
			_, _, err = p.inspect(dir, snapshot.String())
		}
		if err == nil {
			err = p.idle(ctx, dir)
		}
		if err == nil {
			err = p.replaceHead(ctx, dir, snapshot.String(), keep)
		}
		if err != nil {
			return 0, err
		}
	}
	// Of an earlier try as well: it may have been cut short before this.
	if err := folder.AbsentIsFine(p.layout.Protect(dir, kept)); err != nil {
		return 0, err
	}
	return size, p.layout.Flush(dir)
}

// replaceHead makes the head what an item is, and the head that was snapshot keep.
func (p *Pool) replaceHead(ctx context.Context, dir folder.Dir, item string, keep dataset.Snapshot) error {
	if err := p.dropSnapshot(ctx, dir, keep.ID); err != nil {
		return fmt.Errorf("remove what an earlier try has left as snapshot %s: %w", keep.ID, err)
	}
	if err := p.room(dir); err != nil {
		return err
	}
	if err := p.records.Write(dir, layout.SnapshotRecord(keep.ID), keep); err != nil {
		return err
	}
	p.step("restore.recorded")
	err := p.prepare(dir, item, func(image *os.File) error {
		p.step("restore.cloned")
		if err := p.same(dir, item, layout.Next); err != nil {
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
		return errors.Join(err, dir.Remove(layout.SnapshotRecord(keep.ID)))
	}
	if err := p.layout.Rename(dir, layout.Next, keep.ID.String()); err != nil {
		return err
	}
	p.step("restore.named")
	if err := p.layout.Swap(dir, layout.Head, keep.ID.String()); err != nil {
		return err
	}
	p.step("restore.swapped")
	return nil
}

// growAsHead makes next, whose image that is, as large as the head, which has grown since the item
// that it is a clone of was taken. A container is opened for no restore: what is in it grows at the
// next mount.
func (p *Pool) growAsHead(ctx context.Context, dir folder.Dir, item string, image *os.File) error {
	size, err := p.imageSize(dir, layout.Head)
	have, sErr := p.sizeOf(dir, item)
	if err := errors.Join(err, sErr); err != nil {
		return err
	}
	if _, _, err := p.inspect(dir, layout.Head); errors.Is(err, dataset.ErrCorrupt) { // it may have been cut off
		if was, _ := recordedSize(dir, layout.Head); roundUp(was) > have.size {
			size = max(size, have.imageFor(roundUp(was)))
		}
	}
	switch {
	case size <= have.image:
		return nil
	case have.encrypted:
		return image.Truncate(size)
	}
	return p.growIdle(ctx, dir, layout.Next, size)
}

// exchange makes the head a clone of an item, which change has worked on before.
func (p *Pool) exchange(dir folder.Dir, item string, change func(image *os.File) error) error {
	if err := p.prepare(dir, item, change); err != nil {
		return err
	}
	return p.become(dir)
}

// become makes next, which is on the disk, the head, in one step.
func (p *Pool) become(dir folder.Dir) error {
	if err := p.layout.Replace(dir, layout.Head, layout.Next); err != nil {
		return err
	}
	p.step("exchange.replaced")
	if err := p.layout.Flush(dir); err != nil {
		return err
	}
	return p.layout.Remove(dir, layout.Next)
}

// prepare makes next a clone of an item that change has worked on, on the disk.
func (p *Pool) prepare(dir folder.Dir, item string, change func(image *os.File) error) error {
	if err := p.layout.Remove(dir, layout.Next); err != nil {
		return err
	}
	if _, err := p.layout.Clone(dir, layout.Next, dir, item, false); err != nil {
		return err
	}
	image, err := dir.OpenFile(p.layout.Image(layout.Next), os.O_RDWR)
	if err != nil {
		return err
	}
	return p.finish(dir, image, change)
}

// finish has change work on the image of next, and brings that to the disk.
func (p *Pool) finish(dir folder.Dir, image *os.File, change func(image *os.File) error) error {
	err := change(image)
	if err == nil {
		err = image.Sync()
	}
	if err := errors.Join(err, image.Close()); err != nil {
		return errors.Join(err, p.layout.Remove(dir, layout.Next))
	}
	if err := p.layout.Flush(dir); err != nil {
		return err
	}
	p.step("exchange.ready")
	return nil
}

// Tags of an image, each with a snapshot that a restore keeps.
const (
	// restoredAttr names, on a head, the snapshot that keeps what it replaced: so a restore
	// that is asked for again, after its success, does not undo what was written. On the
	// image of that very snapshot it says that the two were not exchanged yet.
	restoredAttr = "user.drover.restored"
	// keptAttr is on what a restore has replaced: so one that is asked for again, after
	// another one has made the head anew, does not undo that.
	keptAttr = "user.drover.kept"
)

// restored tells whether a restore that keeps the head as a snapshot has done so.
func (p *Pool) restored(dir folder.Dir, keep uuid.UUID) (bool, error) {
	by, err := p.tagOf(dir, layout.Head, restoredAttr)
	if err != nil || keep == uuid.Nil || by == keep {
		return by == keep && keep != uuid.Nil, err
	}
	kept, err := p.tagOf(dir, keep.String(), keptAttr)
	if err != nil || kept != keep {
		return false, folder.AbsentIsFine(err)
	}
	waits, err := p.unfinished(dir, keep.String())
	return !waits, err
}

// unfinished tells whether an item is what a restore that was cut short would have made the
// head: it is no snapshot, and worthless.
func (p *Pool) unfinished(dir folder.Dir, item string) (bool, error) {
	id, err := layout.ParseID(item)
	if err != nil {
		return false, nil
	}
	by, err := p.tagOf(dir, item, restoredAttr)
	return err == nil && by == id, folder.AbsentIsFine(err)
}

func (p *Pool) tagOf(dir folder.Dir, item, attr string) (uuid.UUID, error) {
	image, err := dir.Open(p.layout.Image(item))
	if err != nil {
		return uuid.Nil, err
	}
	defer image.Close()
	return tag(image, attr)
}

// tagKept has the head, and all that was written to it, on the disk with the tag of what a
// snapshot keeps.
func (p *Pool) tagKept(dir folder.Dir, keep uuid.UUID) error {
	image, err := dir.OpenFile(p.layout.Image(layout.Head), os.O_RDWR)
	if err != nil {
		return err
	}
	err = setTag(image, keptAttr, keep)
	return errors.Join(err, image.Sync(), image.Close())
}

// tag returns the snapshot that an image is tagged with; the nil one where it is not.
func tag(image *os.File, attr string) (id uuid.UUID, err error) {
	buf := make([]byte, 64)
	n, err := unix.Fgetxattr(int(image.Fd()), attr, buf)
	if errors.Is(err, unix.ENODATA) {
		return id, nil
	}
	if err == nil {
		id, err = uuid.ParseBytes(buf[:n])
	}
	if err != nil {
		return id, fmt.Errorf("read attribute %s of %s: %w", attr, image.Name(), err)
	}
	return id, nil
}

func setTag(image *os.File, attr string, id uuid.UUID) error {
	return unix.Fsetxattr(int(image.Fd()), attr, []byte(id.String()), 0)
}
