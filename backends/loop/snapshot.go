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
	"github.com/droverhq/drover/internal/reflink"
)

// Snapshot implements backends.Pool: one shared image, one flush.
func (p *Pool) Snapshot(_ context.Context, s dataset.Snapshot, progress backends.Progress) error {
	err := p.within(s.Dataset, func(dir folder) error { return p.snapshot(dir, s) })
	if err != nil {
		return err
	}
	if progress != nil {
		progress(int64(s.Size), int64(s.Size))
	}
	return nil
}

func (p *Pool) snapshot(dir folder, s dataset.Snapshot) error {
	if _, err := dir.lstat(p.layout.image(s.ID.String())); err == nil {
		return p.layout.flush(dir) // an earlier try may have been cut short before its own
	}
	if s.Kind != dataset.SnapshotTransfer { // what leaves a full pool makes room there
		if err := p.room(dir); err != nil {
			return err
		}
	}
	return p.keep(dir, s)
}

// keep makes the head a snapshot that is not there.
func (p *Pool) keep(dir folder, s dataset.Snapshot) error {
	// The record goes first: a snapshot without one would be a stranger.
	if err := p.writeRecord(dir, snapshotRecord(s.ID), s); err != nil {
		return err
	}
	p.step("snapshot.recorded")
	durable, err := p.keepHead(dir, s)
	if err != nil {
		return errors.Join(err, dir.remove(snapshotRecord(s.ID)))
	}
	p.step("snapshot.shared")
	if durable {
		return nil
	}
	return p.layout.flush(dir)
}

// keepHead makes a snapshot of the head, with its record there.
func (p *Pool) keepHead(dir folder, s dataset.Snapshot) (durable bool, err error) {
	if shares(s.Kind) {
		if done, err := p.share(dir, s.ID.String(), head); err != nil || done {
			return false, err
		}
	}
	return p.layout.clone(dir, s.ID.String(), dir, head, true)
}

// DeleteSnapshot implements backends.Pool: one flush, or a power cut could bring back
// what the store has forgotten.
func (p *Pool) DeleteSnapshot(ctx context.Context, ds, snapshot uuid.UUID) error {
	err := p.withinAny(ds, func(dir folder, place string) error {
		if err := p.forget(dir, place, snapshot); err != nil {
			return err
		}
		inode, shared, err := p.sharesHead(dir, snapshot)
		if err != nil {
			return err
		}
		if err := p.layout.remove(dir, snapshot.String()); err != nil {
			return err
		}
		if shared {
			if err := p.partFrom(ctx, dir, inode); err != nil {
				return err
			}
		}
		p.step("snapshot-delete.removed")
		if err := absentIsFine(dir.remove(snapshotRecord(snapshot))); err != nil {
			return err
		}
		return p.layout.flush(dir)
	})
	if err != nil && !errors.Is(err, dataset.ErrNotFound) {
		return fmt.Errorf("delete snapshot %s of dataset %s: %w", snapshot, ds, err)
	}
	return nil
}

// Restore implements backends.Pool. The head is first kept as a snapshot, then replaced
// in one step by a clone that was compared with its source.
func (p *Pool) Restore(ctx context.Context, ds, snapshot uuid.UUID, keep dataset.Snapshot, progress backends.Progress) error {
	var size int64
	err := p.within(ds, func(dir folder) error {
		var err error
		if size, err = p.imageSize(dir, snapshot.String()); errors.Is(err, os.ErrNotExist) {
			return dataset.Errorf(dataset.ErrNotFound, "dataset %s has no snapshot %s", ds, snapshot)
		} else if err != nil {
			return err
		}
		if err := p.idle(ctx, dir); err != nil {
			return err
		}
		return p.restore(dir, snapshot, keep)
	})
	if err != nil {
		return fmt.Errorf("restore dataset %s to snapshot %s: %w", ds, snapshot, err)
	}
	if progress != nil {
		progress(size, size)
	}
	return nil
}

// restoredAttr names, on a head's image, the snapshot that keeps what it replaced: so a
// restore that is asked for again, after its success, does not undo what was written.
const restoredAttr = "user.drover.restored"

func (p *Pool) restore(dir folder, snapshot uuid.UUID, keep dataset.Snapshot) error {
	if done, err := p.restored(dir, keep.ID); err != nil {
		return err
	} else if done {
		return p.layout.flush(dir) // an earlier try may have been cut short before its own
	}
	if err := p.snapshot(dir, keep); err != nil {
		return fmt.Errorf("keep the head as snapshot %s: %w", keep.ID, err)
	}
	p.step("restore.kept")
	return p.exchange(dir, snapshot.String(), func(image *os.File) error {
		p.step("restore.cloned")
		if err := p.same(dir, snapshot.String(), next); err != nil {
			return err
		}
		return setRestoredBy(image, keep.ID)
	})
}

// exchange makes the head a clone of an item, which change has worked on before.
func (p *Pool) exchange(dir folder, item string, change func(image *os.File) error) error {
	if err := p.layout.remove(dir, next); err != nil {
		return err
	}
	if _, err := p.layout.clone(dir, next, dir, item, false); err != nil {
		return err
	}
	image, err := dir.openFile(p.layout.image(next), os.O_RDWR)
	if err != nil {
		return err
	}
	err = change(image)
	if err == nil {
		err = image.Sync()
	}
	if err := errors.Join(err, image.Close()); err != nil {
		return errors.Join(err, p.layout.remove(dir, next))
	}
	if err := p.layout.flush(dir); err != nil {
		return err
	}
	p.step("exchange.ready")
	if err := p.layout.replace(dir, head, next); err != nil {
		return err
	}
	p.step("exchange.replaced")
	if err := p.layout.flush(dir); err != nil {
		return err
	}
	return p.layout.remove(dir, next)
}

func (p *Pool) restored(dir folder, keep uuid.UUID) (bool, error) {
	image, err := dir.open(p.layout.image(head))
	if err != nil {
		return false, err
	}
	defer image.Close()
	by, err := restoredBy(image)
	return by == keep && keep != uuid.Nil, err
}

// restoredBy returns what snapshot keeps what a restore replaced that made a head; the nil
// one where none did.
func restoredBy(image *os.File) (keep uuid.UUID, err error) {
	buf := make([]byte, 64)
	n, err := unix.Fgetxattr(int(image.Fd()), restoredAttr, buf)
	if errors.Is(err, unix.ENODATA) {
		return keep, nil
	}
	if err == nil {
		keep, err = uuid.ParseBytes(buf[:n])
	}
	if err != nil {
		return keep, fmt.Errorf("read which restore made the head: %w", err)
	}
	return keep, nil
}

func setRestoredBy(image *os.File, keep uuid.UUID) error {
	return unix.Fsetxattr(int(image.Fd()), restoredAttr, []byte(keep.String()), 0)
}

// same fails with ErrCorrupt when a clone differs from its source.
func (p *Pool) same(dir folder, source, clone string) error {
	equal, err := p.equal(dir, source, clone)
	if err == nil && !equal {
		err = dataset.Errorf(dataset.ErrCorrupt, "the clone of %s differs from it: the head was left as it is", dir.path(p.layout.image(source)))
	}
	return err
}

// equal tells whether two items have the same bytes, by their extents.
func (p *Pool) equal(dir folder, a, b string) (bool, error) {
	fa, err := dir.open(p.layout.image(a))
	if err != nil {
		return false, err
	}
	defer fa.Close()
	fb, err := dir.open(p.layout.image(b))
	if err != nil {
		return false, err
	}
	defer fb.Close()
	return reflink.Same(fa, fb)
}
