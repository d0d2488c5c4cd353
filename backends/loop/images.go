package loop

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/linux/reflink"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/google/uuid"
)

// The size of a dataset is the number of bytes that can be written to it, so its image is larger: see package mkfs. The
// size is recorded beside the image.

// imageFor returns the length in bytes of the image of a dataset with the given size and filesystem.
func imageFor(fs string, size dataset.Size, encrypted bool) int64 {
	device := mkfs.Device(fs, size)
	if encrypted {
		device += crypt.Overhead
	}
	return int64(device)
}

// imageSize returns the length of an item's image in bytes.
func (p *Pool) imageSize(dir safefile.Dir, item string) (int64, error) {
	st, err := dir.Lstat(p.layout.Image(item))
	if err == nil && !safefile.IsRegular(st) {
		err = dataset.Errorf(dataset.ErrCorrupt, "%s is not a file", dir.Path(p.layout.Image(item)))
	}
	if err != nil {
		return 0, err
	}
	return st.Size, nil
}

// itemSize describes the size of an item: the size of the dataset, and the length of the image that holds it.
type itemSize struct {
	FS        string
	Encrypted bool
	Size      dataset.Size
	Image     int64
}

// ImageFor returns the length of the image for another size.
func (s itemSize) ImageFor(size dataset.Size) int64 { return imageFor(s.FS, size, s.Encrypted) }

// sizeOf returns the size of an item from its record, or, if the record has none, the size that fits into its image.
func (p *Pool) sizeOf(dir safefile.Dir, item string) (s itemSize, err error) {
	if s.Image, err = p.imageSize(dir, item); err != nil {
		return s, err
	}
	if s.FS, _, err = p.inspect(dir, item); err != nil {
		return s, err
	}
	recorded, profile := recordedSize(dir, item)
	if s.Encrypted = s.FS == luks; s.Encrypted { // the filesystem in a container cannot be read without the key
		if s.FS = profile.Filesystem.Type; s.FS == "" {
			s.FS = p.Filesystem(dataset.Size(s.Image))
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

// recordedSize returns the size in the record of an item, and its profile. It returns 0 if the record has no size.
func recordedSize(dir safefile.Dir, item string) (dataset.Size, dataset.Profile) {
	if id, ok := shelf.ParseID(item); ok {
		var s dataset.Snapshot
		if shelf.ReadJSON(dir, snapshotRecord(id), &s) != nil || s.ID != id {
			return 0, dataset.Profile{}
		}
		return s.Size, s.Profile
	}
	var d dataset.Dataset
	if shelf.ReadJSON(dir, shelf.RecordFile, &d) != nil {
		return 0, dataset.Profile{}
	}
	return d.Size, d.Profile
}

// inspect returns the filesystem in an item's image. grow reports whether the filesystem is smaller than the image, as
// after an interrupted resize. For an encrypted image, grow is always true, because the size of the filesystem is not
// visible.
func (p *Pool) inspect(dir safefile.Dir, item string) (fs string, grow bool, err error) {
	f, err := dir.Open(p.layout.Image(item))
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	return inspectFile(f)
}

// inspectFile does the work of Inspect on an item's open image.
func inspectFile(image *os.File) (fs string, grow bool, err error) {
	fs, size, err := superblock(image)
	if err != nil {
		return "", false, fmt.Errorf("%s: %w", image.Name(), err)
	}
	if fs == luks {
		return fs, true, nil
	}
	imageSize, err := image.Seek(0, io.SeekEnd)
	return fs, imageSize-size > mkfs.GrowSlack, err
}

// superblock reads which filesystem is in an image, and its size in bytes. For a container the size is 0, because the
// filesystem in it cannot be read without the key. It fails with ErrCorrupt if the image contains neither a filesystem
// nor a container, or only a part of one.
func superblock(d fsctl.Disk) (fs string, size int64, err error) {
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
		return luks, 0, err
	}
	fs, size, err = fsctl.Filesystem(d)
	if err != nil && fs == "" {
		if lost := crypt.CheckFirstHeader(d); lost != nil {
			err = lost
		}
	}
	return fs, size, err
}

// luks is the filesystem of an encrypted image: the real one is not visible without the key.
const luks = "luks"

// container reports whether an item's image is a container, and returns the UUID of the container.
func (p *Pool) container(dir safefile.Dir, item string) (uuid.UUID, bool, error) {
	f, err := dir.Open(p.layout.Image(item))
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

// sameKey fails with ErrInvalid unless the item and the dataset d are encrypted with the same data key, or neither is
// encrypted.
func (p *Pool) sameKey(dir safefile.Dir, item string, d dataset.Dataset) error {
	id, encrypted, err := p.container(dir, item)
	switch {
	case err != nil:
		return err
	case encrypted != (d.Encryption != nil):
		if _, _, err := p.inspect(dir, item); err != nil { // the image may contain neither a filesystem nor a container
			return err
		}
		return dataset.Errorf(dataset.ErrInvalid, "either it or its source is encrypted, but not both")
	case encrypted && id != d.Encryption.ID:
		return dataset.Errorf(dataset.ErrInvalid,
			"its source is encrypted with data key %s, and its record has %s", id, d.Encryption.ID)
	}
	return nil
}

// verifyClone compares a new clone with its source, and fails with ErrCorrupt if they differ.
func (p *Pool) verifyClone(dir safefile.Dir, source, clone string) error {
	equal, err := p.equal(dir, source, clone)
	if err == nil && !equal {
		err = dataset.Errorf(dataset.ErrCorrupt, "the clone of %s differs from it: the head was not changed",
			dir.Path(p.layout.Image(source)))
	}
	return err
}

// equal reports whether two items have the same bytes. It compares their extents.
func (p *Pool) equal(dir safefile.Dir, a, b string) (bool, error) {
	fa, err := dir.Open(p.layout.Image(a))
	if err != nil {
		return false, err
	}
	defer fa.Close()
	fb, err := dir.Open(p.layout.Image(b))
	if err != nil {
		return false, err
	}
	defer fb.Close()
	return reflink.Same(fa, fb)
}

// headEquals reports whether there is a head with the same bytes as an item.
func (p *Pool) headEquals(dir safefile.Dir, item string) (bool, error) {
	if _, err := dir.Lstat(p.layout.Image(headItem)); err != nil {
		return false, safefile.AbsentIsFine(err)
	}
	return p.equal(dir, item, headItem)
}

func (p *Pool) isHeadInode(dir safefile.Dir, inode uint64) (bool, error) {
	st, err := dir.Lstat(p.layout.Image(headItem))
	return st.Ino == inode, err
}

// openSnapshot opens a snapshot's image. It fails with ErrNotFound if there is none.
func (p *Pool) openSnapshot(dir safefile.Dir, id uuid.UUID) (*os.File, error) {
	f, err := dir.Open(p.layout.Image(id.String()))
	if errors.Is(err, os.ErrNotExist) {
		err = dataset.Errorf(dataset.ErrNotFound, "no such snapshot: %s", id)
	}
	return f, err
}
