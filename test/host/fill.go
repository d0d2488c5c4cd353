package host

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FillTo writes the file "filler", so that so many percent of the filesystem of dir are used.
func FillTo(dir string, percent int) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err
	}
	size := int64(fs.Blocks-fs.Bfree+fs.Bavail) * int64(percent) / 100
	size -= int64(fs.Blocks - fs.Bfree)
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fallocate(int(f.Fd()), 0, 0, max(size*fs.Bsize-1<<20, 1))
}
