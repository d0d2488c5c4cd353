package fsctl

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/safefile"
)

// Content is the kind of content of a disk or an image.
type Content string

// The kinds of content. OtherData is everything that is neither a known format nor zeros.
const (
	Empty          Content = "nothing"
	HoldsXFS       Content = "an XFS filesystem"
	HoldsExt       Content = "an ext2, ext3 or ext4 filesystem"
	HoldsBtrfs     Content = "a btrfs filesystem"
	HoldsLUKS      Content = "a LUKS container"
	HoldsLVM       Content = "an LVM physical volume"
	HoldsRAID      Content = "a member of a Linux RAID"
	HoldsSwap      Content = "swap space"
	HoldsZFS       Content = "a member of a ZFS pool"
	HoldsGPT       Content = "a GPT partition table"
	HoldsMBR       Content = "an MBR partition table or a boot sector"
	HoldsBcachefs  Content = "a bcachefs filesystem"
	HoldsBcache    Content = "a bcache device"
	HoldsBluestore Content = "a Ceph OSD"
	HoldsISO       Content = "an ISO 9660 filesystem"
	OtherData      Content = "data of an unknown kind"
)

// signature is a magic number at an offset from the start or, if negative, from the end.
type signature struct {
	content Content
	offset  int64
	magic   string
}

// signatures returns the known signatures, in order of precedence: a disk can have remains of several formats. The
// sources are the definitions of the formats, and the table of libblkid.
func signatures() []signature {
	list := []signature{
		{HoldsLUKS, 0, "LUKS\xba\xbe"},
		{HoldsLUKS, 16384, "SKUL\xba\xbe"}, // the second header of LUKS2
		{HoldsXFS, 0, "XFSB"},
		{HoldsBtrfs, 65536 + 64, "_BHRfS_M"},
		{HoldsBtrfs, 64<<20 + 64, "_BHRfS_M"}, // the second superblock
		{HoldsBcachefs, 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca"},
		{HoldsBcache, 4096 + 24, "\xc6\x85\x73\xf6\x66\xce\x90\xa9"},
		{HoldsBluestore, 0, "bluestore block device"},
		{HoldsRAID, 0, "\xfc\x4e\x2b\xa9"},         // metadata 1.1
		{HoldsRAID, 4096, "\xfc\x4e\x2b\xa9"},      // 1.2
		{HoldsRAID, -8192, "\xfc\x4e\x2b\xa9"},     // 1.0
		{HoldsRAID, -64 << 10, "\xfc\x4e\x2b\xa9"}, // 0.90
		{HoldsExt, 1024 + 56, "\x53\xef"},
		{HoldsGPT, 512, "EFI PART"},
		{HoldsGPT, 4096, "EFI PART"},
		{HoldsGPT, -512, "EFI PART"},
		{HoldsGPT, -4096, "EFI PART"},
		{HoldsISO, 32769, "CD001"},
	}
	for sector := range int64(4) {
		list = append(list, signature{HoldsLVM, sector * 512, "LABELONE"})
	}
	for _, page := range []int64{4096, 8192, 16384, 65536} {
		list = append(list, signature{HoldsSwap, page - 10, "SWAPSPACE2"},
			signature{HoldsSwap, page - 10, "SWAP-SPACE"})
	}
	return append(list, signature{HoldsMBR, 510, "\x55\xaa"})
}

// Identify returns the kind of content of the file or block device at path, according to the signatures of known
// formats. It returns Empty only if it reads nothing but zeros in the first and last 16 MiB and in 1,024 samples
// between them. A disk may have data elsewhere, which only a read of the whole disk would find. Identify changes
// nothing. After an error, the content is unknown: the disk may have data.
func Identify(path string) (Content, error) { return open(path, identify) }

// Known is faster than Identify, because it does not look for unknown data. If it finds no known format, it returns
// OtherData.
func Known(path string) (Content, error) { return open(path, knownContent) }

func open(path string, identify func(io.ReaderAt, int64) (Content, error)) (Content, error) {
	f, err := safefile.OpenDisk(path)
	if err != nil {
		return "", fmt.Errorf("identify: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", fmt.Errorf("identify %s: %w", path, err)
	}
	content, err := identify(f, size)
	if err != nil {
		return "", fmt.Errorf("identify %s: %w", path, err)
	}
	return content, nil
}

func identify(r io.ReaderAt, size int64) (Content, error) {
	content, err := knownContent(r, size)
	if err != nil || content != OtherData {
		return content, err
	}
	zero, err := Zeros(r, size)
	if err != nil {
		return "", err
	}
	if zero {
		return Empty, nil
	}
	return OtherData, nil
}

func knownContent(r io.ReaderAt, size int64) (Content, error) {
	for _, s := range signatures() {
		off := s.offset
		if off < 0 {
			off = size + off
			if s.offset == -64<<10 {
				off = size&^(64<<10-1) - 64<<10 // the superblock 0.90 is at a multiple of 64 KiB
			}
		}
		if off < 0 || off+int64(len(s.magic)) > size {
			continue
		}
		buf := make([]byte, len(s.magic))
		if err := readFull(r, buf, off); err != nil {
			return "", err
		}
		if string(buf) == s.magic {
			return s.content, nil
		}
	}
	zfs, err := holdsZFS(r, size)
	if err != nil || zfs {
		return HoldsZFS, err
	}
	return OtherData, nil
}

// holdsZFS looks for uberblocks in the four labels of ZFS. There are two labels of 256 KiB at each end of a device. The
// second half of a label is an array of uberblocks of at least 1 KiB, in either byte order.
func holdsZFS(r io.ReaderAt, size int64) (bool, error) {
	const label, magic = 256 << 10, 0x00bab10c
	end := size &^ (label - 1)
	for _, start := range []int64{0, label, end - 2*label, end - label} {
		if start < 0 || start+label > size {
			continue
		}
		buf := make([]byte, label/2)
		if err := readFull(r, buf, start+label/2); err != nil {
			return false, err
		}
		for off := 0; off < len(buf); off += 1024 {
			if binary.LittleEndian.Uint64(buf[off:]) == magic || binary.BigEndian.Uint64(buf[off:]) == magic {
				return true, nil
			}
		}
	}
	return false, nil
}

const (
	edge    = 16 << 20
	samples = 1024
	sample  = 64 << 10
)

// Zeros reports whether r, which has size bytes, contains only zeros in the parts that Identify reads.
func Zeros(r io.ReaderAt, size int64) (bool, error) {
	z := zeroReader{r: r, buf: make([]byte, 1<<20)}
	head := min(size, edge)
	tail := max(head, size-edge)
	for _, part := range [][2]int64{{0, head}, {tail, size}} {
		if zero, err := z.isZero(part[0], part[1]); err != nil || !zero {
			return false, err
		}
	}
	if between := tail - head; between <= samples*sample {
		return z.isZero(head, tail)
	}
	step := (tail - head) / samples &^ 4095
	for off := head; off < tail; off += step {
		if zero, err := z.isZero(off, min(off+sample, tail)); err != nil || !zero {
			return false, err
		}
	}
	return true, nil
}

type zeroReader struct {
	r   io.ReaderAt
	buf []byte
}

func (z zeroReader) isZero(start, end int64) (bool, error) {
	for off := start; off < end; off += int64(len(z.buf)) {
		part := z.buf[:min(int64(len(z.buf)), end-off)]
		if err := readFull(z.r, part, off); err != nil {
			return false, err
		}
		// If the slice starts with zero and equals itself shifted by one byte, all of it is zero.
		if part[0] != 0 || !bytes.Equal(part[1:], part[:len(part)-1]) {
			return false, nil
		}
	}
	return true, nil
}

func readFull(r io.ReaderAt, buf []byte, off int64) error {
	n, err := r.ReadAt(buf, off)
	if n == len(buf) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read at %d: %w", off, err)
}

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
