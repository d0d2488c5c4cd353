package imagefile

import (
	"errors"
	"fmt"
	"os"

	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// Tags of an image, each with a snapshot that a restore keeps.
const (
	// RestoredAttr names, on a head, the snapshot that keeps what it replaced: so a restore
	// that is asked for again, after its success, does not undo what was written. On the
	// image of that very snapshot it says that the two were not exchanged yet.
	RestoredAttr = "user.drover.restored"
	// keptAttr is on what a restore has replaced: so one that is asked for again, after
	// another one has made the head anew, does not undo that.
	keptAttr = "user.drover.kept"
)

// Restored tells whether a restore that keeps the head as a snapshot has done so.
func (i *Images) Restored(dir folder.Dir, keep uuid.UUID) (bool, error) {
	by, err := i.tagOf(dir, layout.Head, RestoredAttr)
	if err != nil || keep == uuid.Nil || by == keep {
		return by == keep && keep != uuid.Nil, err
	}
	kept, err := i.tagOf(dir, keep.String(), keptAttr)
	if err != nil || kept != keep {
		return false, folder.AbsentIsFine(err)
	}
	waits, err := i.Unfinished(dir, keep.String())
	return !waits, err
}

// Unfinished tells whether an item is what a restore that was cut short would have made the
// head: it is no snapshot, and worthless.
func (i *Images) Unfinished(dir folder.Dir, item string) (bool, error) {
	id, err := layout.ParseID(item)
	if err != nil {
		return false, nil
	}
	by, err := i.tagOf(dir, item, RestoredAttr)
	return err == nil && by == id, folder.AbsentIsFine(err)
}

func (i *Images) tagOf(dir folder.Dir, item, attr string) (uuid.UUID, error) {
	image, err := dir.Open(i.layout.Image(item))
	if err != nil {
		return uuid.Nil, err
	}
	defer image.Close()
	return tag(image, attr)
}

// TagKept has the head, and all that was written to it, on the disk with the tag of what a
// snapshot keeps.
func (i *Images) TagKept(dir folder.Dir, keep uuid.UUID) error {
	image, err := dir.OpenFile(i.layout.Image(layout.Head), os.O_RDWR)
	if err != nil {
		return err
	}
	err = SetTag(image, keptAttr, keep)
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

// SetTag tags an image with a snapshot.
func SetTag(image *os.File, attr string, id uuid.UUID) error {
	return unix.Fsetxattr(int(image.Fd()), attr, []byte(id.String()), 0)
}

// KeepTag has the image that replaces a head say which snapshot keeps what a restore replaced.
func KeepTag(was, image *os.File) error {
	keep, err := tag(was, RestoredAttr)
	if err != nil || keep == uuid.Nil {
		return err
	}
	return SetTag(image, RestoredAttr, keep)
}
