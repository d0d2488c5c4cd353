package tree

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	chunk = 4 << 20   // bytes that the kernel copies between two checks of ctx
	block = 4 << 10   // the unit in which zeros become holes
	bulk  = 256 << 10 // bytes that are copied through memory at once
)

// extent is a range of a file that contains data.
type extent struct{ off, end int64 }

// nextData returns the first range of data at or after off, cut at size. ok is false if only a hole follows. For a
// filesystem that does not support this, everything is data (lseek(2)).
func nextData(f *os.File, off, size int64) (e extent, ok bool, err error) {
	start, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	if err == unix.ENXIO || start >= size {
		return extent{}, false, nil
	}
	if err == unix.EINVAL {
		return extent{off, size}, off < size, nil
	}
	if err != nil {
		return extent{}, false, err
	}
	end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
	if err == unix.ENXIO {
		return extent{}, false, nil // the file became shorter meanwhile
	}
	return extent{start, min(end, size)}, true, err
}

// copier copies the content of files. It remembers which ways of copying the two filesystems do not support.
type copier struct {
	noClone, noRange bool
	buf              []byte
	done             int64
	progress         func(bytes int64)
}

// file copies the content of src to dst, an empty file. It shares blocks (FICLONE) if possible, and otherwise copies
// the ranges with data. size and allocated are those of src.
func (c *copier) file(ctx context.Context, dst, src *os.File, size, allocated int64) error {
	if size == 0 {
		return nil
	}
	if !c.noClone {
		err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
		if err == nil {
			c.add(min(size, allocated))
			return nil
		}
		if !isUnsupported(err) {
			return err
		}
		// These two errors concern the filesystems. Other errors concern only this file, such as a NOCOW file or a swap
		// file.
		c.noClone = err == unix.EXDEV || err == unix.EOPNOTSUPP
	}
	if err := dst.Truncate(size); err != nil {
		return err
	}
	for off := int64(0); ; {
		e, ok, err := nextData(src, off, size)
		if err != nil || !ok {
			return err
		}
		if err := c.extent(ctx, dst, src, e); err != nil {
			return err
		}
		off = e.end
	}
}

func (c *copier) extent(ctx context.Context, dst, src *os.File, e extent) error {
	for off := e.off; off < e.end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := c.copyPart(dst, src, off, e.end-off)
		if err != nil {
			return err
		}
		if n == 0 {
			return nil // the file became shorter meanwhile
		}
		c.add(n)
		off += n
	}
	return nil
}

// copyPart copies at most limit bytes at off, inside the kernel if possible.
func (c *copier) copyPart(dst, src *os.File, off, limit int64) (int64, error) {
	if !c.noRange {
		from, to := off, off
		n, err := unix.CopyFileRange(int(src.Fd()), &from, int(dst.Fd()), &to, int(min(limit, chunk)), 0)
		if err == nil && n > 0 {
			return int64(n), nil
		}
		if err != nil && err != unix.EINTR && !isUnsupported(err) {
			return 0, err
		}
		// Some filesystems return 0 without an error for files whose content is generated while it is read. Use read(2)
		// for them.
		c.noRange = err == unix.EXDEV || err == unix.EOPNOTSUPP || err == unix.ENOSYS
	}
	if c.buf == nil {
		c.buf = make([]byte, bulk)
	}
	n, err := src.ReadAt(c.buf[:min(limit, bulk)], off)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	_, err = dst.WriteAt(c.buf[:n], off)
	return int64(n), err
}

func (c *copier) add(n int64) {
	c.done += n
	if c.progress != nil {
		c.progress(c.done)
	}
}

// isUnsupported reports whether an error means that this way of copying is not supported here, so that another one
// must be used: see ioctl_ficlone(2), copy_file_range(2).
func isUnsupported(err error) bool {
	var no unix.Errno
	if !errors.As(err, &no) {
		return false
	}
	switch no {
	case unix.EXDEV, unix.EOPNOTSUPP, unix.EINVAL, unix.ENOTTY, unix.ENOSYS, unix.EPERM, unix.ETXTBSY, unix.EBADF:
		return true
	}
	return false
}
