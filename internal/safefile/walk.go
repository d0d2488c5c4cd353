package safefile

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// maxLinks bounds how many symbolic links one path may contain. The kernel has the same limit.
const maxLinks = 40

// walker follows an absolute path, one name at a time. It never lets the kernel follow a symbolic
// link, so that it can check every folder on the way. It keeps a descriptor of the current folder
// and resolves the next name relative to it, so that a folder cannot be exchanged after the check.
type walker struct {
	path     string   // the whole path, for errors
	names    []string // the names that are not resolved yet
	links    int
	at       *os.File // the file or folder reached so far, opened with O_PATH
	st       unix.Stat_t
	resolved string // the path of at, without symbolic links
	// unsafeFolder is the first folder on the way that a user other than root can change. Such a user can
	// make the same path lead to another file. It is empty if there is none.
	unsafeFolder string
}

// walk follows path to its end. The last name may be a symbolic link only if followLast is true.
//
// A symbolic link is followed only if only root can change it: no other user can write to its folder or to
// any folder above. Otherwise a user could make a process of root open a file that the user may not read.
func walk(path string, followLast bool) (*walker, error) {
	if !filepath.IsAbs(path) {
		return nil, dataset.Errorf(dataset.ErrInvalid, "%q: expected an absolute path", path)
	}
	w := &walker{path: path, names: strings.Split(path, "/")}
	err := w.restart()
	for err == nil && len(w.names) > 0 {
		name := w.names[0]
		w.names = w.names[1:]
		if name != "" && name != "." {
			err = w.step(name, followLast)
		}
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *walker) close() {
	if w.at != nil {
		_ = w.at.Close()
	}
}

// restart continues from the root folder.
func (w *walker) restart() error {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: "/", Err: err}
	}
	return w.moveTo(fd, "/")
}

// moveTo makes fd, the file or folder at path, the current one. The walker closes it.
func (w *walker) moveTo(fd int, path string) error {
	w.close()
	w.at, w.resolved = os.NewFile(uintptr(fd), path), path
	if err := unix.Fstat(fd, &w.st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return nil
}

// step resolves one name in the current folder.
func (w *walker) step(name string, followLast bool) error {
	target := filepath.Join(w.resolved, name)
	isFolder := w.st.Mode&unix.S_IFMT == unix.S_IFDIR
	if isFolder && !w.isRootControlled() {
		w.markUnsafe()
	}
	// With O_DIRECTORY the kernel mounts an autofs folder on demand.
	fd, err := openAt(w.at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err == nil {
		return w.moveTo(fd, target)
	}
	if isFolder && errors.Is(err, unix.ENOTDIR) {
		fd, err = openAt(w.at, name, unix.O_PATH|unix.O_NOFOLLOW)
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: target, Err: err}
	}
	if w.st.Mode&0o022 != 0 { // other users can move a link or a file that root owns into a sticky folder
		w.markUnsafe()
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return &fs.PathError{Op: "stat", Path: target, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return w.moveTo(fd, target)
	}
	defer unix.Close(fd)
	if len(w.names) == 0 && !followLast {
		return dataset.Errorf(dataset.ErrInvalid, "%s is a symbolic link (use the path that it points to)", target)
	}
	if w.unsafeFolder != "" {
		return dataset.Errorf(dataset.ErrForbidden,
			"%s: %s is a symbolic link, and users other than root can write to %s (use the path without the link)",
			w.path, target, w.unsafeFolder)
	}
	return w.follow(fd, target)
}

// follow replaces a symbolic link by its target: the names of the target are resolved next.
func (w *walker) follow(fd int, path string) error {
	if w.links++; w.links > maxLinks {
		return &fs.PathError{Op: "open", Path: w.path, Err: unix.ELOOP}
	}
	// The text of a link in /proc is not always the path to its target, so such links are not
	// followed: proc_pid_root(5).
	var kind unix.Statfs_t
	if err := unix.Fstatfs(fd, &kind); err != nil {
		return &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	if kind.Type == unix.PROC_SUPER_MAGIC {
		return dataset.Errorf(dataset.ErrForbidden, "%s: %s is a link in /proc (use the path without it)", w.path, path)
	}
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", target)
	if err != nil {
		return &fs.PathError{Op: "readlink", Path: path, Err: err}
	}
	names := strings.Split(string(target[:n]), "/")
	w.names = append(names, w.names...)
	if n > 0 && target[0] == '/' {
		return w.restart()
	}
	return nil
}

// markUnsafe records that a user other than root can change the current folder.
func (w *walker) markUnsafe() {
	w.unsafeFolder = cmp.Or(w.unsafeFolder, w.resolved)
}

// isRootControlled reports whether only root can exchange the folders in the current folder. This is also true for a
// sticky folder: other users cannot remove or rename root's folders in it. They also cannot move a folder into it
// unless they may write to that folder (rename(2)).
func (w *walker) isRootControlled() bool {
	return w.st.Uid == 0 && (w.st.Mode&0o022 == 0 || w.st.Mode&unix.S_ISVTX != 0)
}

func openAt(dir *os.File, name string, flags int) (fd int, err error) {
	err = unix.EINTR
	for errors.Is(err, unix.EINTR) {
		fd, err = unix.Openat(int(dir.Fd()), name, flags|unix.O_CLOEXEC, 0)
	}
	return fd, err
}

// OpenFolder opens the folder at an absolute path. The caller uses the descriptor from then on,
// because the path may lead to another folder later.
//
// Errors: ErrForbidden if the path contains a symbolic link that users other than root can change,
// or a link in /proc; ErrInvalid if the last name is a symbolic link or the path is not absolute;
// otherwise an fs.PathError.
func OpenFolder(path string) (*os.File, error) {
	w, err := walk(path, false)
	if err != nil {
		return nil, err
	}
	defer w.close()
	fd, err := openAt(w.at, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// CheckFolder checks that only root or the user of the process can change the folder at an absolute path, and that only
// root can make the path lead to another folder. The caller can then trust the files in it.
//
// Errors: ErrForbidden if another user can do that; ErrInvalid if path is not absolute or is a symbolic link; otherwise
// an fs.PathError.
func CheckFolder(path string) error {
	w, err := walk(path, false)
	if err != nil {
		return err
	}
	defer w.close()
	switch {
	case w.st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return &fs.PathError{Op: "open", Path: path, Err: unix.ENOTDIR}
	case w.st.Uid != 0 && int(w.st.Uid) != os.Geteuid() || w.st.Mode&0o022 != 0:
		return dataset.Errorf(dataset.ErrForbidden, "other users can write to %s (chown root, chmod go-w)", path)
	case w.unsafeFolder != "":
		return dataset.Errorf(dataset.ErrForbidden,
			"%s: users other than root can write to %s, which is part of its path (chown root, chmod go-w)", path,
			w.unsafeFolder)
	}
	return nil
}

// CheckProgram checks that only root can change the program at an absolute path: the file, and
// every folder and symbolic link on the way to it. A caller can then run the program by its path
// and knows that it runs the file that was checked.
//
// Errors: ErrForbidden if another user can change one of these, or if path is not a regular file;
// ErrNotFound if it does not exist; ErrInvalid if the path is not absolute; otherwise an fs.PathError.
func CheckProgram(path string) error {
	w, err := walk(path, true)
	if errors.Is(err, fs.ErrNotExist) {
		return dataset.Errorf(dataset.ErrNotFound, "%s does not exist", path)
	}
	if err != nil {
		return err
	}
	defer w.close()
	switch {
	case w.st.Mode&unix.S_IFMT != unix.S_IFREG:
		return dataset.Errorf(dataset.ErrForbidden, "%s is not a regular file", path)
	case w.st.Uid != 0 || w.st.Mode&0o022 != 0:
		return dataset.Errorf(dataset.ErrForbidden,
			"%s: users other than root can write to it (chown root, chmod go-w)", path)
	case w.unsafeFolder != "":
		return dataset.Errorf(dataset.ErrForbidden,
			"%s: users other than root can write to %s, which is part of its path (chown root, chmod go-w)", path,
			w.unsafeFolder)
	}
	return nil
}
