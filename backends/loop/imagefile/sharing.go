package imagefile

import (
	"context"
	"errors"
	"fmt"
	"os"

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

// Sharing lets a head and a snapshot be one file with two names, and parts them before the head is
// written to.
type Sharing struct {
	pool   string // its name, for errors
	layout layout.Layout
	images *Images
	heads  *Heads
	step   func(string)
}

// NewSharing returns the sharing in a pool with a name.
func NewSharing(pool string, l layout.Layout, im *Images, h *Heads, step func(string)) *Sharing {
	return &Sharing{pool: pool, layout: l, images: im, heads: h, step: step}
}

// Share makes item what src is, while nobody uses the head, whichever of the two it is. It
// tells false, and has done nothing, where it is in use or the layout gains nothing by it.
func (s *Sharing) Share(dir folder.Dir, item, src string) (done bool, err error) {
	if !s.layout.Costly() {
		return false, nil
	}
	tmp := layout.TmpPrefix + s.layout.Image(item)
	if err := folder.AbsentIsFine(dir.Remove(tmp)); err != nil {
		return false, err
	}
	image, err := dir.Open(s.layout.Image(src))
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
	if err := dir.Link(s.layout.Image(src), tmp); err != nil {
		return false, err
	}
	s.step("share.linked")
	_, used, err := loopdev.Attached(image)
	if err != nil || used {
		return false, errors.Join(err, folder.AbsentIsFine(dir.Remove(tmp)))
	}
	if err := dir.Rename(tmp, s.layout.Image(item)); err != nil {
		return false, err
	}
	return true, folder.AbsentIsFine(dir.Remove(tmp)) // it stays where both are names of one file: rename(2)
}

// Shares tells whether the image of a snapshot of some kind may be the head's own: where it is
// mostly gone before the head is written to.
func Shares(kind dataset.SnapshotKind) bool {
	return kind == dataset.SnapshotTransfer || kind == dataset.SnapshotSuperseded
}

// Unshare gives a head an image that no snapshot has, before it is written to. ErrAttached: a
// device has it, and with it most often such an image.
func (s *Sharing) Unshare(ctx context.Context, dir folder.Dir) error {
	st, err := dir.Lstat(s.layout.Image(layout.Head))
	if err != nil || st.Nlink == 1 {
		return err
	}
	return s.renew(ctx, dir, st.Ino)
}

// renew gives a head whose image has a number another one, a clone of it. ErrAttached.
func (s *Sharing) renew(ctx context.Context, dir folder.Dir, inode uint64) error {
	was, err := dir.Open(s.layout.Image(layout.Head))
	if err != nil {
		return err
	}
	defer was.Close()
	// Nobody attaches it until it is closed, or makes it its own.
	if err := loopdev.Claim(ctx, was); err != nil {
		return err
	}
	if now, err := s.images.IsHead(dir, inode); err != nil || !now {
		return err // another has done it
	}
	return s.heads.Exchange(dir, layout.Head, func(image *os.File) error {
		s.step("own.cloned")
		if err := s.images.Same(dir, layout.Head, layout.Next); err != nil {
			return err
		}
		return KeepTag(was, image)
	})
}

// DropSecondNames removes what a snapshot that was cut short left of the head.
func (s *Sharing) DropSecondNames(dir folder.Dir) error {
	st, err := dir.Lstat(s.layout.Image(layout.Head))
	if err != nil {
		return err
	}
	c, err := layout.ContentsOf(s.layout, dir)
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

// SharesHead returns the number of a snapshot's image, if it is the head's too.
func (s *Sharing) SharesHead(dir folder.Dir, snapshot uuid.UUID) (inode uint64, shares bool, err error) {
	st, err := dir.Lstat(s.layout.Image(layout.Head))
	if err != nil || st.Nlink == 1 {
		return 0, false, folder.AbsentIsFine(err)
	}
	other, err := dir.Lstat(s.layout.Image(snapshot.String()))
	return st.Ino, err == nil && other.Ino == st.Ino, folder.AbsentIsFine(err)
}

// Remove removes the image of a snapshot that is also the head's image. A reader of the snapshot may have the image
// open. The head is then parted from the image first, because otherwise it would be written to under the reader. The
// snapshot's image gets a temporary name before, so that nobody else can begin to read it, and loses that name at the
// end. If parting fails, the image gets its name back and nothing is removed.
func (s *Sharing) Remove(ctx context.Context, dir folder.Dir, item string, inode uint64) error {
	image := s.layout.Image(item)
	tmp := layout.TmpPrefix + image
	if err := folder.AbsentIsFine(dir.Remove(tmp)); err != nil { // rename(2) leaves two names of one file as they are
		return err
	}
	if err := dir.Rename(image, tmp); err != nil {
		return err
	}
	s.step("snapshot-delete.unnamed")
	if err := s.partFrom(ctx, dir, inode); err != nil {
		return errors.Join(err, dir.Rename(tmp, image))
	}
	return dir.Remove(tmp)
}

// partFrom gives a head an image of its own when somebody reads the snapshot that shares it.
func (s *Sharing) partFrom(ctx context.Context, dir folder.Dir, inode uint64) error {
	image, err := dir.Open(s.layout.Image(layout.Head))
	if err != nil {
		return err
	}
	defer image.Close()
	if !loopdev.OpenElsewhere(image) {
		return nil
	}
	err = s.renew(ctx, dir, inode)
	if errors.Is(err, loopdev.ErrAttached) {
		return nil
	}
	if err = layout.NoSpace(err); errors.Is(err, dataset.ErrNoSpace) {
		err = fmt.Errorf("it is being read, and pool %s has no room for a head apart from it (remove it "+
			"again once that has ended, or others first): %w", s.pool, err)
	}
	return err
}
