package fsctl

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/droverhq/drover/dataset"
)

// Disk is an image or a device. Seek to the end returns its size.
type Disk interface {
	io.ReaderAt
	io.Seeker
}

// Filesystem is like Superblock for a disk that must contain a complete filesystem. It fails with dataset.ErrCorrupt if
// there is neither ext4 nor XFS, or if the disk is smaller than its filesystem, as after truncate(1) or after a copy
// that ran out of space. It reads only the first 2 KiB.
func Filesystem(d Disk) (fs string, size int64, err error) {
	if fs, size, err = Superblock(d); err != nil {
		return "", 0, err
	}
	// A disk grows first, and its superblock is updated later. So if the size is read after the superblock, it is not
	// too small.
	diskSize, err := d.Seek(0, io.SeekEnd)
	switch {
	case err != nil:
	case fs == "":
		err = dataset.Errorf(dataset.ErrCorrupt, "it contains no ext4 or XFS")
	case size > diskSize:
		err = dataset.Errorf(dataset.ErrCorrupt, "image truncated: %s of %s are left (%s)",
			dataset.Size(diskSize).Human(), dataset.Size(size).Human(), fs)
	}
	return fs, size, err
}

// Superblock returns the filesystem of an image or a disk, "xfs", "ext4" or "" for anything else, and the size of that
// filesystem in bytes.
func Superblock(r io.ReaderAt) (fs string, size int64, err error) {
	buf := make([]byte, 2048)
	if _, err := r.ReadAt(buf, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", 0, err
	}
	if string(buf[:4]) == "XFSB" {
		be := binary.BigEndian
		return string(XFS), int64(uint64(be.Uint32(buf[4:])) * be.Uint64(buf[8:])), nil
	}
	le, sb := binary.LittleEndian, buf[1024:]
	if le.Uint16(sb[56:]) == 0xEF53 {
		blocks := uint64(le.Uint32(sb[4:]))
		const incompat64bit = 0x80
		if le.Uint32(sb[96:])&incompat64bit != 0 {
			blocks |= uint64(le.Uint32(sb[0x150:])) << 32
		}
		return string(Ext), int64(blocks << (10 + le.Uint32(sb[24:])&31)), nil
	}
	return "", 0, nil
}
