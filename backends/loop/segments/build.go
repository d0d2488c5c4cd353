package segments

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/reflink"
)

// Build gives an image, which is one hole, the content of the segments in a folder, by sharing their blocks. The folder
// has nothing but segments, at the paths of backends.SegmentPath. Build fails with dataset.ErrCorrupt if it has
// something else, or if a segment is not a regular file of the right size. It does not flush the image.
func Build(ctx context.Context, folder *os.Root, image *os.File) error {
	info, err := image.Stat()
	if err != nil {
		return err
	}
	groups, err := fs.ReadDir(folder.FS(), ".")
	if err != nil {
		return err
	}
	for _, group := range groups {
		if !group.IsDir() { // to open a FIFO would block
			return strange(group.Name(), errors.New("it is not a folder"))
		}
		names, err := fs.ReadDir(folder.FS(), group.Name())
		if err != nil {
			return strange(group.Name(), err)
		}
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if err := insert(folder, path.Join(group.Name(), name.Name()), image, info.Size()); err != nil {
				return err
			}
		}
	}
	return nil
}

// insert shares the blocks of the segment at a path with its part of an image of a length.
func insert(folder *os.Root, name string, image *os.File, length int64) (err error) {
	index, err := strconv.ParseInt(path.Base(name), 16, 64)
	at := index * backends.SegmentSize
	if err != nil || index < 0 || index >= (length+backends.SegmentSize-1)/backends.SegmentSize ||
		backends.SegmentPath(index) != name {
		return strange(name, errors.New("it is not a segment of the image"))
	}
	// It could be a FIFO, or a link out of the folder.
	segment, err := folder.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return strange(name, err)
	}
	defer func() { err = errors.Join(err, segment.Close()) }()
	info, err := segment.Stat()
	if err != nil {
		return err
	}
	want := min(backends.SegmentSize, length-at)
	if !info.Mode().IsRegular() || info.Size() != want {
		return strange(name, errors.New("it is not a file of "+strconv.FormatInt(want, 10)+" bytes"))
	}
	return reflink.ClonePartAt(image, at, segment, 0, want)
}

func strange(name string, err error) error {
	return dataset.Errorf(dataset.ErrCorrupt, "the image has %s: %w", strconv.Quote(name), err)
}

// The superblock of ext4 (struct ext4_super_block in fs/ext4/ext4.h).
const (
	ext4Super        = 1024  // offset in the image
	ext4Errors       = 0x3c  // what the kernel does after an error, in two bytes
	ext4MountOptions = 0x200 // options that each mount gets, in 64 bytes
	ext4ErrorsPanic  = 3     // it stops the host (EXT4_ERRORS_PANIC)
)

// CheckExt4 fails with dataset.ErrCorrupt if the ext4 in an image of a stranger can stop the host. Drover makes no such
// filesystem.
func CheckExt4(image *os.File) error {
	var super [1024]byte
	if _, err := image.ReadAt(super[:], ext4Super); err != nil {
		return err
	}
	if binary.LittleEndian.Uint16(super[ext4Errors:]) == ext4ErrorsPanic || super[ext4MountOptions] != 0 {
		return dataset.Errorf(dataset.ErrCorrupt, "its ext4 sets mount options, or stops the host after an error "+
			"(tune2fs -l shows both)")
	}
	return nil
}
