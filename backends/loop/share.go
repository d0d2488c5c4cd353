package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/loopdev"
)

// On XFS a head and a snapshot of it can be one file with two names, as long as nobody has
// the head open: what a FICLONE costs, seconds of a fragmented image, is put off until the
// head is written to, which it may never be. So it is with snapshots for other nodes and with
// heads that a move makes. Whoever is to write to a head makes it its own before (own), and
// its loop device takes no file with a second name.

// share makes item what src is, while nobody uses the head, whichever of the two it is. It
// tells false, and has done nothing, where it is in use or the layout gains nothing by it.
func (p *Pool) share(dir folder.Dir, item, src string) (done bool, err error) {
	if !p.layout.Costly() {
		return false, nil
	}
	tmp := layout.TmpPrefix + p.layout.Image(item)
	if err := folder.AbsentIsFine(dir.Remove(tmp)); err != nil {
		return false, err
	}
	image, err := dir.Open(p.layout.Image(src))
	if err != nil {
		return false, err
	}
	defer image.Close()
	if _, used, err := loopdev.Attached(image); err != nil || used {
		return false, err
	}
	if err := image.Sync(); err != nil {
		return false, err
	}
	// Under a name that is none's until it is seen that nobody has it open: who attaches it
	// after looks how many names it has, once the device has it.
	if err := dir.Link(p.layout.Image(src), tmp); err != nil {
		return false, err
	}
	p.step("share.linked")
	_, used, err := loopdev.Attached(image)
	if err != nil || used {
		return false, errors.Join(err, folder.AbsentIsFine(dir.Remove(tmp)))
	}
	if err := dir.Rename(tmp, p.layout.Image(item)); err != nil {
		return false, err
	}
	return true, folder.AbsentIsFine(dir.Remove(tmp)) // it stays where both are names of one file: rename(2)
}

// shares tells whether the image of a snapshot of some kind may be the head's own: where it is
// mostly gone before the head is written to.
func shares(kind dataset.SnapshotKind) bool {
	return kind == dataset.SnapshotTransfer || kind == dataset.SnapshotSuperseded
}

// own gives a head an image that no snapshot has, before it is written to. ErrAttached: a
// device has it, and with it most often such an image.
func (p *Pool) own(ctx context.Context, dir folder.Dir) error {
	st, err := dir.Lstat(p.layout.Image(layout.Head))
	if err != nil || st.Nlink == 1 {
		return err
	}
	return p.renew(ctx, dir, st.Ino)
}

// renew gives a head whose image has a number another one, a clone of it. ErrAttached.
func (p *Pool) renew(ctx context.Context, dir folder.Dir, inode uint64) error {
	was, err := dir.Open(p.layout.Image(layout.Head))
	if err != nil {
		return err
	}
	defer was.Close()
	// Nobody attaches it until it is closed, or makes it its own.
	if err := loopdev.Claim(ctx, was); err != nil {
		return err
	}
	if now, err := p.isHead(dir, inode); err != nil || !now {
		return err // another has done it
	}
	return p.exchange(dir, layout.Head, func(image *os.File) error {
		p.step("own.cloned")
		if err := p.same(dir, layout.Head, layout.Next); err != nil {
			return err
		}
		return keepTag(was, image)
	})
}

// keepTag has the image that replaces a head say which snapshot keeps what a restore replaced.
func keepTag(was, image *os.File) error {
	keep, err := tag(was, restoredAttr)
	if err != nil || keep == uuid.Nil {
		return err
	}
	return setTag(image, restoredAttr, keep)
}

// attachHead attaches the head, which is no snapshot's image then.
func (p *Pool) attachHead(ctx context.Context, dir folder.Dir, opts loopdev.Options) (*loopdev.Device, error) {
	for try := 0; ; try++ {
		err := p.own(ctx, dir)
		if err != nil && !errors.Is(err, loopdev.ErrAttached) {
			if err = noSpace(err); errors.Is(err, dataset.ErrNoSpace) {
				err = fmt.Errorf("pool %s has no room for an image of its own (remove snapshots or volumes "+
					"there): %w", p.name, err)
			}
			return nil, err
		}
		p.step("attach.owned")
		dev, err := attach(ctx, dir.Path(p.layout.Image(layout.Head)), opts)
		if err != nil && !errors.Is(err, loopdev.ErrShared) {
			return nil, err
		}
		if err == nil {
			// It may be another's device, or that of a head that was replaced meanwhile.
			st, err := dir.Lstat(p.layout.Image(layout.Head))
			if err == nil && st.Ino == dev.Inode && st.Nlink == 1 {
				return dev, nil
			}
			if err := errors.Join(err, dev.Close()); err != nil {
				return nil, err
			}
		}
		// A snapshot is being taken, or a crash left another name of what is in use.
		if try == busyTries/10 {
			if err := p.dropSecondNames(dir); err != nil {
				return nil, err
			}
		}
		if try == busyTries {
			return nil, dataset.Errorf(dataset.ErrInUse,
				"its image has a second name, and a device (see losetup -a) that does not go")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(busyPause):
		}
	}
}

// dropSecondNames removes what a snapshot that was cut short left of the head.
func (p *Pool) dropSecondNames(dir folder.Dir) error {
	st, err := dir.Lstat(p.layout.Image(layout.Head))
	if err != nil {
		return err
	}
	c, err := layout.ContentsOf(p.layout, dir)
	if err != nil {
		return err
	}
	for _, name := range c.Tmp {
		other, err := dir.Lstat(name)
		if err == nil && other.Ino == st.Ino {
			err = dir.Remove(name)
		}
		if err := folder.AbsentIsFine(err); err != nil {
			return err
		}
	}
	return nil
}

// sharesHead returns the number of a snapshot's image, if it is the head's too.
func (p *Pool) sharesHead(dir folder.Dir, snapshot uuid.UUID) (inode uint64, shares bool, err error) {
	st, err := dir.Lstat(p.layout.Image(layout.Head))
	if err != nil || st.Nlink == 1 {
		return 0, false, folder.AbsentIsFine(err)
	}
	other, err := dir.Lstat(p.layout.Image(snapshot.String()))
	return st.Ino, err == nil && other.Ino == st.Ino, folder.AbsentIsFine(err)
}

// removeShared removes the image of a snapshot that is the head's too. Who reads it has it open,
// and the head is parted from it first, as it would be written to under the reader: so the image
// loses its name, by which others could begin to read it, before, and its last one after. Where
// that fails it has its name again, and nothing is removed.
func (p *Pool) removeShared(ctx context.Context, dir folder.Dir, item string, inode uint64) error {
	image := p.layout.Image(item)
	tmp := layout.TmpPrefix + image
	if err := folder.AbsentIsFine(dir.Remove(tmp)); err != nil { // rename(2) leaves two names of one file as they are
		return err
	}
	if err := dir.Rename(image, tmp); err != nil {
		return err
	}
	p.step("snapshot-delete.unnamed")
	if err := p.partFrom(ctx, dir, inode); err != nil {
		return errors.Join(err, dir.Rename(tmp, image))
	}
	return dir.Remove(tmp)
}

// partFrom gives a head an image of its own when somebody reads the snapshot that shares it.
func (p *Pool) partFrom(ctx context.Context, dir folder.Dir, inode uint64) error {
	image, err := dir.Open(p.layout.Image(layout.Head))
	if err != nil {
		return err
	}
	defer image.Close()
	if !loopdev.OpenElsewhere(image) {
		return nil
	}
	err = p.renew(ctx, dir, inode)
	if errors.Is(err, loopdev.ErrAttached) {
		return nil
	}
	if err = noSpace(err); errors.Is(err, dataset.ErrNoSpace) {
		err = fmt.Errorf("it is being read, and pool %s has no room for a head apart from it (remove it "+
			"again once that has ended, or others first): %w", p.name, err)
	}
	return err
}

// isHead tells whether a file is the head's.
func (p *Pool) isHead(dir folder.Dir, inode uint64) (bool, error) {
	st, err := dir.Lstat(p.layout.Image(layout.Head))
	return st.Ino == inode, err
}
