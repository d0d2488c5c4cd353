package restserver

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/safefile"
)

// openRoot opens the directory of a repository. It is opened for each request, so that its filesystem can be unmounted
// between two requests.
func openRoot(path string) (*os.File, error) { return safefile.OpenFolder(path) }

// openAt opens a name in a directory. It follows no symbolic link, and never leaves the directory. It does not block if
// the name is a FIFO.
func openAt(dir *os.File, name string, flags int) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	if flags&unix.O_PATH == 0 {
		how.Flags |= unix.O_NONBLOCK
	}
	if flags&unix.O_CREAT != 0 {
		how.Mode = 0o600
	}
	for {
		// EAGAIN means that something was renamed meanwhile, so that the kernel could not exclude an escape. Retry
		// (openat2(2)).
		fd, err := unix.Openat2(int(dir.Fd()), name, &how)
		switch err {
		case nil:
			return os.NewFile(uintptr(fd), name), nil
		case unix.EINTR, unix.EAGAIN:
		default:
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

// folderName returns the folder of a file, relative to the repository. restic stores packs in 256 folders, by the first
// two digits of their names.
func folderName(o object) string {
	if o.kind == kindData {
		return kindData + "/" + o.name[:2]
	}
	return o.kind
}

func openFolder(root *os.File, o object) (*os.File, error) {
	return openAt(root, folderName(o), unix.O_RDONLY|unix.O_DIRECTORY)
}

// openObject opens a file for reading. It fails with fs.ErrNotExist if there is no such regular file.
func openObject(root *os.File, o object) (*os.File, error) {
	name := config
	if o.kind != config {
		name = folderName(o) + "/" + o.name
	}
	f, err := openAt(root, name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// eachFile calls each for every name in the folder of a kind. Packs are one level deeper: eachFile calls each for every
// name in the subfolders of the folder data. The argument folder is the folder that contains the name.
func eachFile(root *os.File, kind string, each func(folder *os.File, name string, info fs.FileInfo) error) error {
	dir, err := openAt(root, kind, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	if kind != kindData {
		return eachName(dir, each)
	}
	return eachName(dir, func(_ *os.File, name string, info fs.FileInfo) error {
		if len(name) != 2 || !info.IsDir() {
			return nil
		}
		sub, err := openAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer sub.Close()
		return eachName(sub, each)
	})
}

// eachName calls each for every name in a folder. It ignores names that are removed meanwhile.
func eachName(dir *os.File, each func(dir *os.File, name string, info fs.FileInfo) error) error {
	for {
		entries, err := dir.ReadDir(1024)
		for _, e := range entries {
			info, ierr := statAt(dir, e.Name())
			if errors.Is(ierr, fs.ErrNotExist) {
				continue
			}
			if ierr != nil {
				return ierr
			}
			if err := each(dir, e.Name(), info); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// statAt describes a name in a folder. It does not follow a symbolic link.
func statAt(dir *os.File, name string) (fs.FileInfo, error) {
	f, err := openAt(dir, name, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Stat()
}

// temporary is in the names of files that are not complete. restic ignores such names.
const temporary = ".drover-upload-"

func isTemporary(name string) bool { return strings.Contains(name, temporary) }

// install gives a complete temporary file its name. It never replaces a file: it fails with fs.ErrExist if there is
// one.
func install(folder *os.File, from, to string) error {
	fd := int(folder.Fd())
	err := unix.Renameat2(fd, from, fd, to, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS || err == unix.EOPNOTSUPP { // NFS cannot do it
		if err = unix.Linkat(fd, from, fd, to, 0); err == nil {
			err = unix.Unlinkat(fd, from, 0)
		}
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return folder.Sync()
}
