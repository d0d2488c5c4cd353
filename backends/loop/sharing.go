package loop

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/safefile"
)

// On XFS a head and a snapshot of it can be one file with two names while no loop device has the file. A FICLONE of a
// fragmented image takes seconds. Sharing the file delays the FICLONE until the head is written to. Some heads are
// never written to again. Three kinds of items are shared in this way: snapshots of the kinds that keepHead names,
// heads that Promote makes, and received snapshots that equal their base (the base and the snapshot are one file then).
// Unshare must be called before a head is written to. A pool does not attach an image that has a second name.

// share makes item a second name of the image of src. If the image is attached to a device, or if clones are cheap in
// the layout, share does nothing and returns false.
func (p *Pool) share(dir safefile.Dir, item, src string) (done bool, err error) {
	if !p.layout.Costly() {
		return false, nil
	}
	tmp := shelf.Temp + p.layout.Image(item)
	if err := safefile.AbsentIsFine(dir.Remove(tmp)); err != nil {
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
	// The second name of the image is temporary until it is certain that no loop device has the image. A pool
	// checks the number of names of an image after it has attached the image.
	if err := dir.Link(p.layout.Image(src), tmp); err != nil {
		return false, err
	}
	p.step("share.linked")
	_, used, err := loopdev.Attached(image)
	if err != nil || used {
		return false, errors.Join(err, safefile.AbsentIsFine(dir.Remove(tmp)))
	}
	if err := dir.Rename(tmp, p.layout.Image(item)); err != nil {
		return false, err
	}
	return true, safefile.AbsentIsFine(dir.Remove(tmp)) // rename(2) leaves tmp if both are names of one file
}

// unshare gives a head an image that no snapshot shares. It must be called before the head is written to. It fails with
// ErrAttached if the head is attached to a device. (An attached head normally shares no image, because Unshare was
// called before it was attached.)
func (p *Pool) unshare(ctx context.Context, dir safefile.Dir) error {
	st, err := dir.Lstat(p.layout.Image(headItem))
	if err != nil || st.Nlink == 1 {
		return err
	}
	return p.unshareHead(ctx, dir, st.Ino)
}

// unshareHead replaces the image of a head by a clone, if the image still has the inode. It fails with ErrAttached if a
// device has the image.
func (p *Pool) unshareHead(ctx context.Context, dir safefile.Dir, inode uint64) error {
	sharedImage, err := dir.Open(p.layout.Image(headItem))
	if err != nil {
		return err
	}
	defer sharedImage.Close()
	// Until the image is closed, it cannot be attached or replaced.
	if err := loopdev.Claim(ctx, sharedImage); err != nil {
		return err
	}
	if isHead, err := p.isHeadInode(dir, inode); err != nil || !isHead {
		return err // another call has replaced it
	}
	return p.exchangeHead(dir, headItem, func(image *os.File) error {
		p.step("own.cloned")
		if err := p.verifyClone(dir, headItem, nextItem); err != nil {
			return err
		}
		return keepTag(sharedImage, image)
	})
}

// abandon gives a head another image with the same content. image is the present one, which is attached to a device
// whose filesystem is frozen and will be shut down.
func (p *Pool) abandon(dir safefile.Dir, image *os.File) error {
	return p.exchangeHead(dir, headItem, func(clone *os.File) error {
		if err := p.verifyClone(dir, headItem, nextItem); err != nil {
			return err
		}
		return keepTag(image, clone)
	})
}

// dropSecondNames removes second names of the head that an interrupted snapshot left.
func (p *Pool) dropSecondNames(dir safefile.Dir) error {
	st, err := dir.Lstat(p.layout.Image(headItem))
	if err != nil {
		return err
	}
	c, err := contentsOf(p.layout, dir)
	if err != nil {
		return err
	}
	for _, name := range c.Tmp {
		other, err := dir.Lstat(name)
		if err == nil && other.Ino == st.Ino {
			err = dir.Remove(name)
		}
		if err := safefile.AbsentIsFine(err); err != nil {
			return err
		}
	}
	return nil
}

// sharesHead reports whether a snapshot's image is also the head's, and returns its inode.
func (p *Pool) sharesHead(dir safefile.Dir, snapshot uuid.UUID) (inode uint64, shares bool, err error) {
	st, err := dir.Lstat(p.layout.Image(headItem))
	if err != nil || st.Nlink == 1 {
		return 0, false, safefile.AbsentIsFine(err)
	}
	other, err := dir.Lstat(p.layout.Image(snapshot.String()))
	return st.Ino, err == nil && other.Ino == st.Ino, safefile.AbsentIsFine(err)
}

// removeShared removes the image of a snapshot that is also the head's image. A reader of the snapshot may have the
// image open, and must not see later writes to the head. So removeShared first gives the snapshot's image a temporary
// name, so that no new reader can open it. Then it gives the head a separate image if the image is open elsewhere, and
// removes the temporary name. If separating the head fails, the image gets its name back and nothing is removed.
func (p *Pool) removeShared(ctx context.Context, dir safefile.Dir, item string, inode uint64) error {
	image := p.layout.Image(item)
	tmp := shelf.Temp + image
	// rename(2) does nothing if both are names of one file.
	if err := safefile.AbsentIsFine(dir.Remove(tmp)); err != nil {
		return err
	}
	if err := dir.Rename(image, tmp); err != nil {
		return err
	}
	p.step("snapshot-delete.unnamed")
	if err := p.separate(ctx, dir, inode); err != nil {
		return errors.Join(err, dir.Rename(tmp, image))
	}
	return dir.Remove(tmp)
}

// separate gives a head its own image if the snapshot that shares it is being read.
func (p *Pool) separate(ctx context.Context, dir safefile.Dir, inode uint64) error {
	image, err := dir.Open(p.layout.Image(headItem))
	if err != nil {
		return err
	}
	defer image.Close()
	if !loopdev.OpenElsewhere(image) {
		return nil
	}
	err = p.unshareHead(ctx, dir, inode)
	if errors.Is(err, loopdev.ErrAttached) {
		return nil
	}
	if err = backends.NoSpace(err); errors.Is(err, dataset.ErrNoSpace) {
		err = fmt.Errorf("it is being read, and pool %s lacks space for a separate head (remove it again once "+
			"the read has ended, or remove others first): %w", p.name, err)
	}
	return err
}
