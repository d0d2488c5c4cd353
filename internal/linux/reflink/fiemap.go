package reflink

import (
	"context"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/btrfsctl"
)

// Extent is a range of a file that has blocks. Offset, Physical and Length are bytes.
type Extent struct {
	Offset   int64
	Physical uint64
	Length   int64
	Flags    ExtentFlags
}

// ExtentFlags are the flags of FIEMAP (Documentation/filesystems/fiemap.rst).
type ExtentFlags uint32

// Flags of an extent. Other flags are passed on as the kernel returns them.
const (
	Last      ExtentFlags = 0x0001
	Unknown   ExtentFlags = 0x0002 // no physical address
	Delalloc  ExtentFlags = 0x0004 // not on the disk yet; Unknown is set too
	Encoded   ExtentFlags = 0x0008 // compressed or encrypted
	Inline    ExtentFlags = 0x0200
	Unwritten ExtentFlags = 0x0800 // allocated, reads as zeros
	Shared    ExtentFlags = 0x2000
)

// opaque are the flags of extents whose content is unknown.
const opaque = Unknown | Delalloc | Encoded | 0x80 /* data encrypted */ | Inline |
	0x100 /* not aligned */ | 0x400 /* data tail */

// The structures of linux/fiemap.h, with room for one batch of extents.
const fiemapBatch = 1024

type fiemapHeader struct {
	start, length                        uint64
	flags, mapped, extentCount, reserved uint32
}

type fiemapExtent struct {
	logical, physical, length uint64
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

type fiemapRequest struct {
	header  fiemapHeader
	extents [fiemapBatch]fiemapExtent
}

const (
	fsIocFiemap    = 0xC020660B // _IOWR('f', 11, struct fiemap)
	fiemapFlagSync = 1
	fiemapAll      = ^uint64(0)
)

func fiemap(f *os.File, h *fiemapHeader) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIocFiemap, uintptr(unsafe.Pointer(h)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		default:
			return fmt.Errorf("extents of %s: %w", f.Name(), errno)
		}
	}
}

// Count returns the number of extents of f that are on the disk. It is cheap, because the kernel does not copy the
// extents.
func Count(f *os.File) (int, error) {
	h := fiemapHeader{length: fiemapAll}
	if err := fiemap(f, &h); err != nil {
		return 0, err
	}
	return int(h.mapped), nil
}

// Extents writes out the dirty pages of f and returns its extents in order of Offset. The last one may end after the
// end of the file. If another process writes to f meanwhile, the extents are not of a single moment. On btrfs they are
// read from the tree of the subvolume: there, extents that are adjacent on the disk may be separate, and the flags
// Shared and Last are not set.
func Extents(f *os.File) ([]Extent, error) {
	tree, err := hasTree(f)
	if err != nil {
		return nil, err
	}
	if tree {
		return treeExtents(f)
	}
	return mapped(f)
}

// Unshared returns how many bytes of f are in blocks that no other file uses, also blocks that are allocated in
// advance. It ends with the cause when ctx ends. It first waits until the dirty pages of f are written. On btrfs each
// batch of extents also waits for a commit, so f must be a file that nobody writes to.
func Unshared(ctx context.Context, f *os.File) (bytes int64, err error) {
	req := new(fiemapRequest)
	for next := uint64(0); ; {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		got, last, err := req.read(f, next, fiemapAll)
		if err != nil {
			return 0, err
		}
		for _, e := range got {
			if e.Flags&(Shared|Delalloc) == 0 {
				bytes += e.Length
			}
		}
		if last {
			return bytes, nil
		}
		next = uint64(got[len(got)-1].Offset + got[len(got)-1].Length)
	}
}

// hasTree reports whether f is on btrfs.
func hasTree(f *os.File) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return false, fmt.Errorf("extents of %s: %w", f.Name(), err)
	}
	return fs.Type == unix.BTRFS_SUPER_MAGIC, nil
}

// treeExtents does the work of Extents on btrfs. It does not use FIEMAP: on btrfs, each FIEMAP request writes out the
// whole file and waits for the commit (btrfs_fiemap in fs/btrfs/fiemap.c).
func treeExtents(f *os.File) ([]Extent, error) {
	if err := fiemap(f, &fiemapHeader{length: 1, flags: fiemapFlagSync}); err != nil {
		return nil, err
	}
	items, err := btrfsctl.FileExtents(f)
	if err != nil {
		return nil, err
	}
	flags := map[btrfsctl.ExtentKind]ExtentFlags{
		btrfsctl.Prealloc: Unwritten,
		btrfsctl.Inline:   Inline,
		btrfsctl.Encoded:  Encoded,
	}
	out := make([]Extent, 0, len(items))
	for _, e := range items {
		if e.Kind == btrfsctl.Inline {
			e.Length = (e.Length + block - 1) / block * block // rounded up to whole blocks
		}
		if e.Kind != btrfsctl.Hole {
			out = append(out, Extent{Offset: e.Offset, Physical: e.Physical, Length: e.Length, Flags: flags[e.Kind]})
		}
	}
	return out, nil
}

// mapped does the work of Extents with FIEMAP.
func mapped(f *os.File) ([]Extent, error) {
	var all []Extent
	req := new(fiemapRequest)
	for next := uint64(0); ; {
		got, last, err := req.read(f, next, fiemapAll)
		all = append(all, got...)
		if err != nil || last {
			return all, err
		}
		next = uint64(got[len(got)-1].Offset + got[len(got)-1].Length)
	}
}

// extentsFrom makes one request for the extents of f between off and to. The kernel may return only the first of them.
// The result is complete up to the offset end, which is not after to. On btrfs, the result has all extents of f.
func extentsFrom(f *os.File, off, to int64) (ext []Extent, end int64, err error) {
	tree, err := hasTree(f)
	if err != nil {
		return nil, 0, err
	}
	if tree {
		ext, err = treeExtents(f)
		return ext, to, err
	}
	ext, last, err := new(fiemapRequest).read(f, uint64(off), uint64(to))
	if err != nil || last {
		return ext, to, err
	}
	end = ext[len(ext)-1].Offset + ext[len(ext)-1].Length
	return ext, min(end, to), nil
}

// read returns a batch of the extents between two offsets, and whether it is the last one.
func (r *fiemapRequest) read(f *os.File, from, to uint64) (out []Extent, last bool, err error) {
	r.header = fiemapHeader{start: from, length: to - from, flags: fiemapFlagSync, extentCount: fiemapBatch}
	if err := fiemap(f, &r.header); err != nil {
		return nil, true, err
	}
	got := r.extents[:r.header.mapped]
	out = make([]Extent, 0, len(got))
	for _, e := range got {
		out = append(out, Extent{
			Offset: int64(e.logical), Physical: e.physical, Length: int64(e.length), Flags: ExtentFlags(e.flags),
		})
	}
	return out, len(got) < fiemapBatch || out[len(out)-1].Flags&Last != 0, nil
}
