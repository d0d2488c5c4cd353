package safefile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxRead is the largest file that Read, ReadPrivate and Dir.Read accept, in bytes.
const maxRead = 4 << 20

// Read returns the content of the regular file at path. It fails for a symbolic link, for
// anything else that is not a regular file, and for a file of more than 4 MiB. Like os.ReadFile,
// it returns fs.ErrNotExist if there is no such file.
func Read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return readAll(f)
}

// ReadPrivate is like Read, but it fails with ErrForbidden if another user may have written or read the file: its owner
// must be root or the user of the process, and its mode must give others no access.
func ReadPrivate(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := checkPrivate(f); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, errors.Join(err, f.Close()))
	}
	return readAll(f)
}

func readAll(f *os.File) ([]byte, error) {
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: f.Name(), Err: errors.New("not a regular file")}
	}
	// Most files have less than two sectors. io.ReadAll would read them in eight parts.
	b := bytes.NewBuffer(make([]byte, 0, 2*4096))
	_, err = b.ReadFrom(io.LimitReader(f, maxRead+1))
	if err == nil && b.Len() > maxRead {
		err = &fs.PathError{Op: "read", Path: f.Name(), Err: fmt.Errorf("more than %d bytes", maxRead)}
	}
	return b.Bytes(), err
}

// OpenDisk opens a block device or a regular file for reading. It follows symbolic links. It fails
// for anything else without opening it: opening a FIFO may block forever, and opening a watchdog
// device starts the watchdog.
func OpenDisk(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFBLK && kind != unix.S_IFREG {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("neither a block device nor a regular file")}
	}
	again, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(again), path), nil
}
