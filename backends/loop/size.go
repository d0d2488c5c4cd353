package loop

import (
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/mkfs"
)

// The size of a dataset is what can be written to it, so its image is larger: see package mkfs.
// The image of one that an older version made is as large as its size, and stays so until it is
// resized. The size is on record beside the image.

// roundUp makes a size a whole number of blocks.
func roundUp(size dataset.Size) dataset.Size {
	return (size + layout.Sector - 1) / layout.Sector * layout.Sector
}

// imageFor is how many bytes the image of a dataset of a size has, with a filesystem in it.
func imageFor(fs string, size dataset.Size, encrypted bool) int64 {
	device := mkfs.Device(fs, size)
	if encrypted {
		device += crypt.Overhead
	}
	return int64(device)
}

// imageSize returns the bytes of an item's image.
func (p *Pool) imageSize(dir folder.Dir, item string) (int64, error) {
	st, err := dir.Lstat(p.layout.Image(item))
	if err == nil && !folder.IsRegular(st) {
		err = dataset.Errorf(dataset.ErrCorrupt, "%s is no file", dir.Path(p.layout.Image(item)))
	}
	if err != nil {
		return 0, err
	}
	return st.Size, nil
}

// sized is how large an item is.
type sized struct {
	fs        string
	encrypted bool
	size      dataset.Size
	image     int64
}

// imageFor is how large the image would be for another size.
func (s sized) imageFor(size dataset.Size) int64 { return imageFor(s.fs, size, s.encrypted) }

// sizeOf returns an item's size: what is on record, or, where that says nothing, what fits into its
// image.
func (p *Pool) sizeOf(dir folder.Dir, item string) (s sized, err error) {
	if s.image, err = p.imageSize(dir, item); err != nil {
		return s, err
	}
	if s.fs, _, err = p.inspect(dir, item); err != nil {
		return s, err
	}
	recorded, profile := recordedSize(dir, item)
	if s.encrypted = s.fs == luks; s.encrypted { // and what is in there takes the key
		if s.fs = profile.Filesystem.Type; s.fs == "" {
			s.fs = p.Filesystem(dataset.Size(s.image))
		}
	}
	s.size = min(roundUp(recorded), dataset.Size(s.image))
	if s.size <= 0 {
		device := dataset.Size(s.image)
		if s.encrypted {
			device -= crypt.Overhead
		}
		s.size = mkfs.Size(s.fs, device)
	}
	return s, nil
}

// recordedSize is what the record of an item says; 0: nothing.
func recordedSize(dir folder.Dir, item string) (dataset.Size, dataset.Profile) {
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
