// Package reflink clones files by sharing their blocks, and finds the differences of two files from their extent maps,
// without reading their data. Backends loop and dir call it. The package keeps no state. The caller prevents concurrent
// writes where a function demands it. Extent maps are read in fiemap.go and compared in diff.go, and holes are made in
// punch.go.
package reflink

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrUnsupported means that two files cannot share blocks: the filesystem has no reflinks, they are on different
// filesystems, or (btrfs) only one of them is NOCOW.
var ErrUnsupported = errors.New("no reflinks between these files")

// Clone gives dst, which is open for writing, the content and size of src by sharing its blocks (ioctl_ficlone(2)).
// Writers to src are blocked meanwhile, for about 15 µs an extent on XFS. It is atomic for readers of dst, and durable
// only after an fsync of dst.
func Clone(dst, src *os.File) error {
	return clone(dst, src, func() error { return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) })
}

// ClonePartAt is like Clone for length bytes of src at off, which dst gets at the offset to. All numbers are multiples
// of the filesystem's block size, and src must have all of these bytes.
func ClonePartAt(dst *os.File, to int64, src *os.File, off, length int64) error {
	return clone(dst, src, func() error {
		return unix.IoctlFileCloneRange(int(dst.Fd()), &unix.FileCloneRange{
			Src_fd: int64(src.Fd()), Src_offset: uint64(off), Src_length: uint64(length), Dest_offset: uint64(to),
		})
	})
}

func clone(dst, src *os.File, share func() error) error {
	for {
		err := share()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTTY),
			errors.Is(err, unix.EXDEV), errors.Is(err, unix.EINVAL):
			return fmt.Errorf("clone %s to %s: %w (%w)", src.Name(), dst.Name(), ErrUnsupported, err)
		default:
			return fmt.Errorf("clone %s to %s: %w", src.Name(), dst.Name(), err)
		}
	}
}

// Supported reports whether new files in dir can share blocks. It tests this with two temporary files, and leaves
// nothing behind in dir. An error means that the answer is unknown.
func Supported(dir string) (bool, error) {
	src, err := createUnnamed(dir)
	if err != nil {
		return false, fmt.Errorf("probe %s for reflinks: %w", dir, err)
	}
	defer src.Close()
	dst, err := createUnnamed(dir)
	if err != nil {
		return false, fmt.Errorf("probe %s for reflinks: %w", dir, err)
	}
	defer dst.Close()
	if _, err := src.Write(make([]byte, 4096)); err != nil {
		return false, fmt.Errorf("probe %s for reflinks: %w", dir, err)
	}
	err = Clone(dst, src)
	if errors.Is(err, ErrUnsupported) {
		return false, nil
	}
	return err == nil, err
}

// createUnnamed creates a file that disappears when it is closed.
func createUnnamed(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), dir+"/(unnamed)"), nil
	}
	// A filesystem that ignores the flag returns EISDIR: open(2).
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return nil, err
	}
	f, err := os.CreateTemp(dir, ".reflink-probe-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
