package bolt

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// reserveBytes of disk are kept allocated beyond the end of the file
// (fallocate(2) with FALLOC_FL_KEEP_SIZE), and no holes within it. A commit then still finds space when the
// disk is full: the free pages, and room for the file to grow about twice. Removing volumes must still work
// on a full disk.
const reserveBytes = 2 * growBytes

// reserveRetry is how long to wait before another try for a reserve that could
// not be had: on a full disk each costs the filesystem a search.
const reserveRetry = 10 * time.Second

type reserve struct {
	size int64     // of the file that it is for
	next time.Time // when to try again, after a failure
}

// keepReserve sees to the reserve after the file was opened or may have grown.
// That there is none, for want of room or of a filesystem that can do it, is no
// error: Stats tells.
func (s *Store) keepReserve() {
	info, err := s.file.Stat()
	if err != nil {
		s.reserved.Store(0)
		return
	}
	size, now := info.Size(), s.opts.Clock.Now()
	s.fileBytes.Store(size)
	grown := size != s.reserve.size
	if !grown && (s.reserved.Load() > 0 || now.Before(s.reserve.next)) {
		return
	}
	s.reserve.size = size
	if err := unix.Fallocate(int(s.file.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size+reserveBytes); err != nil {
		s.reserved.Store(0)
		s.reserve.next = now.Add(reserveRetry)
		return
	}
	s.reserved.Store(reserveBytes)
}

// noCopyOnWrite makes btrfs write the new, empty file in place: otherwise it
// allocates for every write, and a reserve is of no use (btrfs(5), "nodatacow").
// bbolt never writes over what it may still need, and its meta pages have a
// checksum of their own.
func noCopyOnWrite(f *os.File) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return err
	}
	if int64(fs.Type) != unix.BTRFS_SUPER_MAGIC { //nolint:unconvert // not everywhere the same type
		return nil
	}
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	const fsNoCOW = 0x00800000 // FS_NOCOW_FL of linux/fs.h
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|fsNoCOW)
}
