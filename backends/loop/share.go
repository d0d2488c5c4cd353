package loop

import (
	"context"
	"errors"
	"os"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/loopdev"
)

// On XFS a head and a snapshot of it can be one file with two names, as long as nobody has
// the head open: what a FICLONE costs, seconds of a fragmented image, is put off until the
// head is written to, which it may never be. So it is with snapshots for other nodes and with
// heads that a move makes. Whoever is to write to a head makes it its own before (own), and
// its loop device takes no file with a second name.

// share makes item what src is, while nobody uses the head, whichever of the two it is. It
// tells false, and has done nothing, where it is in use or the layout gains nothing by it.
func (p *Pool) share(dir folder, item, src string) (done bool, err error) {
	if !p.layout.costly() {
		return false, nil
	}
	image, err := dir.open(p.layout.image(src))
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
	tmp := tmpPrefix + p.layout.image(item)
	if err := absentIsFine(dir.remove(tmp)); err != nil {
		return false, err
	}
	if err := dir.link(p.layout.image(src), tmp); err != nil {
		return false, err
	}
	p.step("share.linked")
	_, used, err := loopdev.Attached(image)
	if err != nil || used {
		return false, errors.Join(err, dir.remove(tmp))
	}
	return true, dir.rename(tmp, p.layout.image(item))
}

// shares tells whether the image of a snapshot of some kind may be the head's own: where it is
// mostly gone before the head is written to.
func shares(kind dataset.SnapshotKind) bool {
	return kind == dataset.SnapshotTransfer || kind == dataset.SnapshotSuperseded || kind == dataset.SnapshotRestore
}

// own gives a head that nobody uses an image that no snapshot has, before it is written to.
// One that is in use has that already.
func (p *Pool) own(ctx context.Context, dir folder) error {
	st, err := dir.lstat(p.layout.image(head))
	if err != nil || st.Nlink == 1 {
		return err
	}
	was, err := dir.open(p.layout.image(head))
	if err != nil {
		return err
	}
	defer was.Close()
	// Nobody attaches it until it is closed, or makes it its own.
	if err := loopdev.Claim(ctx, was); errors.Is(err, loopdev.ErrAttached) {
		return nil
	} else if err != nil {
		return err
	}
	if now, err := p.isHead(dir, st.Ino); err != nil || !now {
		return err // another has done it
	}
	return p.exchange(dir, head, func(image *os.File) error {
		p.step("own.cloned")
		if err := p.same(dir, head, next); err != nil {
			return err
		}
		keep, err := restoredBy(was)
		if err != nil || keep == uuid.Nil {
			return err
		}
		return setRestoredBy(image, keep)
	})
}

// attachHead attaches the head, which is no snapshot's image then.
func (p *Pool) attachHead(ctx context.Context, dir folder, opts loopdev.Options) (*loopdev.Device, error) {
	for {
		if err := p.own(ctx, dir); err != nil {
			return nil, err
		}
		p.step("attach.owned")
		dev, err := attach(ctx, dir.path(p.layout.image(head)), opts)
		if errors.Is(err, loopdev.ErrShared) && ctx.Err() == nil {
			continue // a snapshot was taken just now
		}
		if err != nil {
			return nil, err
		}
		is, err := p.isHead(dir, dev.Inode)
		if err == nil && is {
			return dev, nil
		}
		// Another made the head its own meanwhile: what the device has is the snapshot alone.
		if err := errors.Join(err, dev.Close(), ctx.Err()); err != nil {
			return nil, err
		}
	}
}

// isHead tells whether a file is the head's.
func (p *Pool) isHead(dir folder, inode uint64) (bool, error) {
	st, err := dir.lstat(p.layout.image(head))
	return st.Ino == inode, err
}

// link gives a file another name.
func (d folder) link(name, to string) error {
	return d.fail("link", to, unix.Linkat(d.fd(), name, d.fd(), to, 0))
}
