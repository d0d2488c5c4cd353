// Package imagefile reads and replaces the image files of datasets. [Images] reads their size, content and restore
// tags, [Heads] replaces heads, and [Sharing] lets a head and a snapshot share one file. Package loop and its parts
// attach, growth, poolimage, template and transfer use it.
//
// The types have no state besides the settings of the pool: everything is read from the directory of the dataset. The
// caller of backends.Pool prevents concurrent changes of a dataset. Before the package changes the image of a head that
// may be in use, it locks the image (loopdev.Claim). Sizes and contents of images are in images.go, the tags of
// restores in tags.go, and the types Heads and Sharing in heads.go and sharing.go.
package imagefile

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/google/uuid"
)

// The size of a dataset is the number of bytes that can be written to it, so its image is larger: see package mkfs. The
// size is recorded beside the image.

// ImageFor returns the length in bytes of the image of a dataset with the given size and filesystem.
func ImageFor(fs string, size dataset.Size, encrypted bool) int64 {
	device := mkfs.Device(fs, size)
	if encrypted {
		device += crypt.Overhead
	}
	return int64(device)
}

// Images reads the image files of items: their size, filesystem, container and tags.
type Images struct {
	layout layout.Layout
	// defaultFS returns the filesystem that a dataset of a size gets if its profile names none.
	defaultFS func(dataset.Size) string
}

// NewImages returns an Images for a pool with the given layout. defaultFS returns the filesystem that a dataset of a
// size gets if its profile names none.
func NewImages(l layout.Layout, defaultFS func(dataset.Size) string) *Images {
	return &Images{layout: l, defaultFS: defaultFS}
}

// Size returns the length of an item's image in bytes.
func (i *Images) Size(dir folder.Dir, item string) (int64, error) {
	st, err := dir.Lstat(i.layout.Image(item))
	if err == nil && !folder.IsRegular(st) {
		err = dataset.Errorf(dataset.ErrCorrupt, "%s is not a file", dir.Path(i.layout.Image(item)))
	}
	if err != nil {
		return 0, err
	}
	return st.Size, nil
}

// ItemSize describes the size of an item: the size of the dataset, and the length of the image that holds it.
type ItemSize struct {
	FS        string
	Encrypted bool
	Size      dataset.Size
	Image     int64
}

// ImageFor returns the length of the image for another size.
func (s ItemSize) ImageFor(size dataset.Size) int64 { return ImageFor(s.FS, size, s.Encrypted) }

// SizeOf returns the size of an item from its record, or, if the record has none, the size that fits into its image.
func (i *Images) SizeOf(dir folder.Dir, item string) (s ItemSize, err error) {
	if s.Image, err = i.Size(dir, item); err != nil {
		return s, err
	}
	if s.FS, _, err = i.Inspect(dir, item); err != nil {
		return s, err
	}
	recorded, profile := RecordedSize(dir, item)
	if s.Encrypted = s.FS == LUKS; s.Encrypted { // the filesystem in a container cannot be read without the key
		if s.FS = profile.Filesystem.Type; s.FS == "" {
			s.FS = i.defaultFS(dataset.Size(s.Image))
		}
	}
	s.Size = min(recorded, dataset.Size(s.Image))
	if s.Size <= 0 {
		device := dataset.Size(s.Image)
		if s.Encrypted {
			device -= crypt.Overhead
		}
		s.Size = mkfs.Size(s.FS, device)
	}
	return s, nil
}

// RecordedSize returns the size in the record of an item, and its profile. It returns 0 if the record has no size.
func RecordedSize(dir folder.Dir, item string) (dataset.Size, dataset.Profile) {
	if id, err := layout.ParseID(item); err == nil {
		var s dataset.Snapshot
		if layout.ReadRecord(dir, layout.SnapshotRecord(id), &s) != nil || s.ID != id {
			return 0, dataset.Profile{}
		}
		return s.Size, s.Profile
	}
	var d dataset.Dataset
	if layout.ReadRecord(dir, layout.RecordFile, &d) != nil {
		return 0, dataset.Profile{}
	}
	return d.Size, d.Profile
}

// GrowSlack is the largest difference in bytes between an image and its filesystem for which the filesystem is not
// grown. A filesystem leaves out a last group that would be too small. ext4 leaves out more than XFS.
const GrowSlack = 16 << 20

// Inspect returns the filesystem in an item's image. grow reports whether the filesystem is smaller than the image, as
// after an interrupted resize. For an encrypted image, grow is always true, because the size of the filesystem is not
// visible.
func (i *Images) Inspect(dir folder.Dir, item string) (fs string, grow bool, err error) {
	f, err := dir.Open(i.layout.Image(item))
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	return InspectFile(f)
}

// InspectFile does the work of Inspect on an item's open image.
func InspectFile(image *os.File) (fs string, grow bool, err error) {
	fs, size, err := Superblock(image)
	if err != nil {
		return "", false, fmt.Errorf("%s: %w", image.Name(), err)
	}
	if fs == LUKS {
		return fs, true, nil
	}
	imageSize, err := image.Seek(0, io.SeekEnd)
	return fs, imageSize-size > GrowSlack, err
}

// Superblock reads which filesystem is in an image, and its size in bytes. For a container the size is 0, because the
// filesystem in it cannot be read without the key. It fails with ErrCorrupt if the image contains neither a filesystem
// nor a container, or only a part of one.
func Superblock(d fsctl.Disk) (fs string, size int64, err error) {
	_, encrypted, err := crypt.Header(d)
	if err != nil {
		return "", 0, err
	}
	if encrypted {
		imageSize, err := d.Seek(0, io.SeekEnd)
		if err == nil && imageSize <= crypt.Overhead {
			err = dataset.Errorf(dataset.ErrCorrupt,
				"image truncated: the headers of its LUKS container need %s, and it has %s",
				dataset.Size(crypt.Overhead).Human(), dataset.Size(imageSize).Human())
		}
		return LUKS, 0, err
	}
	fs, size, err = fsctl.Filesystem(d)
	if err != nil && fs == "" {
		if lost := crypt.CheckFirstHeader(d); lost != nil {
			err = lost
		}
	}
	return fs, size, err
}

// LUKS is the filesystem of an encrypted image: the real one is not visible without the key.
const LUKS = "luks"

// container reports whether an item's image is a container, and returns the UUID of the container.
func (i *Images) container(dir folder.Dir, item string) (uuid.UUID, bool, error) {
	f, err := dir.Open(i.layout.Image(item))
	if err != nil {
		return uuid.Nil, false, err
	}
	defer f.Close()
	id, encrypted, err := crypt.Header(f)
	if err != nil {
		err = fmt.Errorf("%s: %w", f.Name(), err)
	}
	return id, encrypted, err
}

// SameKey fails with ErrInvalid unless the item and the dataset d are encrypted with the same data key, or neither is
// encrypted.
func (i *Images) SameKey(dir folder.Dir, item string, d dataset.Dataset) error {
	id, encrypted, err := i.container(dir, item)
	switch {
	case err != nil:
		return err
	case encrypted != (d.Encryption != nil):
		if _, _, err := i.Inspect(dir, item); err != nil { // the image may contain neither a filesystem nor a container
			return err
		}
		return dataset.Errorf(dataset.ErrInvalid, "either it or its source is encrypted, but not both")
	case encrypted && id != d.Encryption.ID:
		return dataset.Errorf(dataset.ErrInvalid,
			"its source is encrypted with data key %s, and its record has %s", id, d.Encryption.ID)
	}
	return nil
}

// VerifyClone compares a new clone with its source, and fails with ErrCorrupt if they differ.
func (i *Images) VerifyClone(dir folder.Dir, source, clone string) error {
	equal, err := i.equal(dir, source, clone)
	if err == nil && !equal {
		err = dataset.Errorf(dataset.ErrCorrupt, "the clone of %s differs from it: the head was not changed",
			dir.Path(i.layout.Image(source)))
	}
	return err
}

// equal reports whether two items have the same bytes. It compares their extents.
func (i *Images) equal(dir folder.Dir, a, b string) (bool, error) {
	fa, err := dir.Open(i.layout.Image(a))
	if err != nil {
		return false, err
	}
	defer fa.Close()
	fb, err := dir.Open(i.layout.Image(b))
	if err != nil {
		return false, err
	}
	defer fb.Close()
	return reflink.Same(fa, fb)
}

// HeadEquals reports whether there is a head with the same bytes as an item.
func (i *Images) HeadEquals(dir folder.Dir, item string) (bool, error) {
	if _, err := dir.Lstat(i.layout.Image(layout.Head)); err != nil {
		return false, folder.AbsentIsFine(err)
	}
	return i.equal(dir, item, layout.Head)
}

// IsHeadInode reports whether an inode is that of the head's image.
func (i *Images) IsHeadInode(dir folder.Dir, inode uint64) (bool, error) {
	st, err := dir.Lstat(i.layout.Image(layout.Head))
	return st.Ino == inode, err
}

// OpenSnapshot opens a snapshot's image. It fails with ErrNotFound if there is none.
func (i *Images) OpenSnapshot(dir folder.Dir, id uuid.UUID) (*os.File, error) {
	f, err := dir.Open(i.layout.Image(id.String()))
	if errors.Is(err, os.ErrNotExist) {
		err = dataset.Errorf(dataset.ErrNotFound, "no such snapshot: %s", id)
	}
	return f, err
}
