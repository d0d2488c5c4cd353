package tree

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

func (c *comparing) content(a, b *node, at *place) error {
	switch a.format() {
	case unix.S_IFDIR:
		return c.subdirs(a, b, at)
	case unix.S_IFREG:
		if err := c.files(a, b, at); err != nil {
			return err
		}
	case unix.S_IFLNK:
		ta, errA := a.readLink()
		tb, errB := b.readLink()
		if err := cmp.Or(errA, errB); err != nil {
			return wrapError("read", at, err)
		}
		return differ(c, at, "target", "%q", ta, tb)
	case unix.S_IFCHR, unix.S_IFBLK:
		return differ(c, at, "device", "%#x", a.st.Rdev, b.st.Rdev)
	}
	return nil
}

func (c *comparing) subdirs(a, b *node, at *place) error {
	if err := at.tooDeep(); err != nil {
		return wrapError("read", at, err)
	}
	da, err := a.openDir()
	if err != nil {
		return wrapError("open", at, err)
	}
	defer da.Close()
	db, err := b.openDir()
	if err != nil {
		return wrapError("open", at, err)
	}
	defer db.Close()
	return c.dirs(da, db, at)
}

func (c *comparing) files(a, b *node, at *place) error {
	if a.st.Size != b.st.Size {
		return differ(c, at, "size", "%d", a.st.Size, b.st.Size)
	}
	fa, err := a.openFile()
	if err != nil {
		return wrapError("open", at, err)
	}
	defer fa.Close()
	fb, err := b.openFile()
	if err != nil {
		return wrapError("open", at, err)
	}
	defer fb.Close()
	off, err := firstUnequal(c.ctx, fa, fb, a.st.Size)
	if err != nil {
		return wrapError("read", at, err)
	}
	if off >= 0 {
		return c.add(at, "content", fmt.Sprintf("differs from byte %d", off), "the other")
	}
	return nil
}

// firstUnequal returns the offset of the first difference of two files of the same size, or -1 if there is none. It
// does not read ranges where both files have holes.
func firstUnequal(ctx context.Context, a, b *os.File, size int64) (int64, error) {
	bufA, bufB := make([]byte, bulk), make([]byte, bulk)
	for off := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		ea, okA, errA := nextData(a, off, size)
		eb, okB, errB := nextData(b, off, size)
		if err := cmp.Or(errA, errB); err != nil || (!okA && !okB) {
			return -1, err
		}
		if !okA || (okB && eb.off < ea.off) {
			ea = eb
		}
		n := min(ea.end-ea.off, bulk)
		gotA, errA := readFull(a, bufA[:n], ea.off)
		gotB, errB := readFull(b, bufB[:n], ea.off)
		if err := cmp.Or(errA, errB); err != nil {
			return 0, err
		}
		if !bytes.Equal(gotA, gotB) {
			for i := range min(len(gotA), len(gotB)) {
				if gotA[i] != gotB[i] {
					return ea.off + int64(i), nil
				}
			}
			return ea.off + int64(min(len(gotA), len(gotB))), nil
		}
		if len(gotA) == 0 {
			return -1, nil // both files became shorter meanwhile
		}
		off = ea.off + int64(len(gotA))
	}
}

func readFull(f *os.File, buf []byte, off int64) ([]byte, error) {
	n, err := f.ReadAt(buf, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return buf[:n], err
}

func kindName(n *node) string {
	switch n.format() {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR:
		return "character device"
	case unix.S_IFBLK:
		return "block device"
	}
	return fmt.Sprintf("kind %#o", n.format())
}
