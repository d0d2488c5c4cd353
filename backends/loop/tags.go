package loop

import (
	"errors"
	"fmt"
	"os"

	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// The tags of an image. Each names a snapshot that a restore keeps.
const (
	// restoredAttr tags a head that a restore made. Its value is the UUID of the snapshot that keeps the former head. A
	// restore that is repeated after its success finds this tag, and does not undo later writes. The future head gets
	// the tag before the restore exchanges it with the present head. Between the two steps, the future head has the
	// name of that snapshot. The exchange gives the name to the former head: see Unfinished.
	restoredAttr = "user.drover.restored"
	// keptAttr tags a former head that a restore has replaced. If a later restore has replaced the head again, a
	// repetition of the earlier restore finds this tag, and does not undo the later restore.
	keptAttr = "user.drover.kept"
)

// restored reports whether a restore that keeps the head as a snapshot has succeeded.
func (p *Pool) restored(dir safefile.Dir, keep uuid.UUID) (bool, error) {
	restoredTag, err := p.tagOf(dir, headItem, restoredAttr)
	if err != nil || keep == uuid.Nil || restoredTag == keep {
		return restoredTag == keep && keep != uuid.Nil, err
	}
	keptTag, err := p.tagOf(dir, keep.String(), keptAttr)
	if err != nil || keptTag != keep {
		return false, safefile.AbsentIsFine(err)
	}
	unfinished, err := p.unfinished(dir, keep.String())
	return !unfinished, err
}

// unfinished reports whether an item is the future head of an interrupted restore. Such an item has the name of a
// snapshot, but is not one, and can be removed.
func (p *Pool) unfinished(dir safefile.Dir, item string) (bool, error) {
	id, ok := shelf.ParseID(item)
	if !ok {
		return false, nil
	}
	restoredTag, err := p.tagOf(dir, item, restoredAttr)
	return err == nil && restoredTag == id, safefile.AbsentIsFine(err)
}

// tagOf returns a tag of an item's image.
func (p *Pool) tagOf(dir safefile.Dir, item, attr string) (uuid.UUID, error) {
	image, err := dir.Open(p.layout.Image(item))
	if err != nil {
		return uuid.Nil, err
	}
	defer image.Close()
	return tag(image, attr)
}

// tagKept tags the head with the snapshot that will keep it, and flushes the head with everything that was written to
// it.
func (p *Pool) tagKept(dir safefile.Dir, keep uuid.UUID) error {
	image, err := dir.OpenFile(p.layout.Image(headItem), os.O_RDWR)
	if err != nil {
		return err
	}
	err = setTag(image, keptAttr, keep)
	return errors.Join(err, image.Sync(), image.Close())
}

// tag returns the snapshot that an image is tagged with, or the nil UUID if the image has no tag.
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

// keepTag copies the tag of a completed restore from a head to the image that replaces it.
func keepTag(oldImage, image *os.File) error {
	keep, err := tag(oldImage, restoredAttr)
	if err != nil || keep == uuid.Nil {
		return err
	}
	return setTag(image, restoredAttr, keep)
}
