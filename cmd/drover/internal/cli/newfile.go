package cli

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/durable"
)

// Write writes file.tmp, and renames it to file when it is complete and on disk. It fails with dataset.ErrExists if
// file or file.tmp exists. After an error it removes the file.tmp that it has created. what names the content in
// errors, such as backup.
func Write(what, file string, write func(io.Writer) error) (err error) {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return fileExistsError(what, file, err)
	}
	tmp := file + ".tmp"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return dataset.Errorf(dataset.ErrExists,
			"%s exists: another %s is running, or one was killed (remove the file then)", tmp, what)
	}
	if err != nil {
		return err
	}
	placed := false
	defer func() {
		if !placed {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	if err = write(f); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := renameNew(what, tmp, file); err != nil {
		return err
	}
	placed = true
	return durable.SyncDir(filepath.Dir(file))
}

func fileExistsError(what, file string, err error) error {
	if err != nil {
		return err
	}
	return dataset.Errorf(dataset.ErrExists, "%s exists: a new %s overwrites nothing (choose another name)", file, what)
}

// renameNew renames tmp to file. It fails if file exists. On filesystems without such a rename (NFS, see rename(2)), it
// links and unlinks instead.
func renameNew(what, tmp, file string) error {
	err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, file, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		if err = os.Link(tmp, file); err == nil {
			return os.Remove(tmp)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return fileExistsError(what, file, nil)
	}
	return err
}
