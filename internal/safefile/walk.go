package safefile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// maxLinks bounds how many symbolic links a path may lead through, as the kernel does.
const maxLinks = 40

// walker follows an absolute path, one name at a time. It never lets the kernel follow a
// symbolic link, so that it can look at each folder on the way, and it pins each folder with
// a descriptor, so that what it looked at is what it goes on from.
type walker struct {
	path  string   // the whole path, for errors
	names []string // that are left
	links int
	at    *os.File // what was reached, opened with O_PATH
	st    unix.Stat_t
	way   string // the path of at, as it was walked
	// loose is the first folder on the way that others than root can write to, so that they can
	// make way name something else than at. It is empty if there is none.
	loose string
}

// walk follows path to its end. The last name may be a symbolic link only if last is true.
//
// A symbolic link is followed only if nobody but root can change it: only root can write to the
// folder that it is in, and to all those above. Who can change one could lead a process of root
// to what he cannot read himself.
func walk(path string, last bool) (*walker, error) {
	if !filepath.IsAbs(path) {
		return nil, dataset.Errorf(dataset.ErrInvalid, "%q: want an absolute path", path)
	}
	w := &walker{path: path, names: strings.Split(path, "/")}
	err := w.restart()
	for err == nil && len(w.names) > 0 {
		name := w.names[0]
		w.names = w.names[1:]
		if name != "" && name != "." {
			err = w.step(name, last)
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

// restart goes to the root folder.
func (w *walker) restart() error {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: "/", Err: err}
	}
	return w.reach(fd, "/")
}

// reach takes the descriptor of what was found at way.
func (w *walker) reach(fd int, way string) error {
	w.close()
	w.at, w.way = os.NewFile(uintptr(fd), way), way
	if err := unix.Fstat(fd, &w.st); err != nil {
		return &fs.PathError{Op: "stat", Path: way, Err: err}
	}
	return nil
}

// step goes from a folder to the name in it.
func (w *walker) step(name string, last bool) error {
	way := filepath.Join(w.way, name)
	isFolder := w.st.Mode&unix.S_IFMT == unix.S_IFDIR
	if isFolder && !w.rooted() {
		w.isLoose()
	}
	// O_DIRECTORY has the kernel mount what autofs mounts on demand.
	fd, err := openAt(w.at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err == nil {
		return w.reach(fd, way)
	}
	if isFolder && errors.Is(err, unix.ENOTDIR) {
		fd, err = openAt(w.at, name, unix.O_PATH|unix.O_NOFOLLOW)
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: way, Err: err}
	}
	if w.st.Mode&0o022 != 0 { // a link or a file can be moved into a sticky folder
		w.isLoose()
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return &fs.PathError{Op: "stat", Path: way, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return w.reach(fd, way)
	}
	defer unix.Close(fd)
	if len(w.names) == 0 && !last {
		return dataset.Errorf(dataset.ErrInvalid, "%s is a symbolic link (name what it leads to)", way)
	}
	if w.loose != "" {
		return dataset.Errorf(dataset.ErrForbidden, "%s: %s is a symbolic link, and others than root can write to %s (give the path without the link)", w.path, way, w.loose)
	}
	return w.follow(fd, way)
}

// follow puts what a symbolic link leads to before the names that are left.
func (w *walker) follow(fd int, way string) error {
	if w.links++; w.links > maxLinks {
		return &fs.PathError{Op: "open", Path: w.path, Err: unix.ELOOP}
	}
	// Links of /proc lead elsewhere than they say, so they are not followed: proc_pid_root(5).
	var kind unix.Statfs_t
	if err := unix.Fstatfs(fd, &kind); err != nil {
		return &fs.PathError{Op: "statfs", Path: way, Err: err}
	}
	if kind.Type == unix.PROC_SUPER_MAGIC {
		return dataset.Errorf(dataset.ErrForbidden, "%s: %s is a link of /proc (give the path without it)", w.path, way)
	}
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", target)
	if err != nil {
		return &fs.PathError{Op: "readlink", Path: way, Err: err}
	}
	names := strings.Split(string(target[:n]), "/")
	w.names = append(names, w.names...)
	if n > 0 && target[0] == '/' {
		return w.restart()
	}
	return nil
}

func (w *walker) isLoose() {
	if w.loose == "" {
		w.loose = w.way
	}
}

// rooted reports whether nobody but root can exchange a folder that is in this one. In a sticky
// folder others can neither remove nor rename what is not theirs, nor move a folder into it that
// they cannot write to (rename(2)).
func (w *walker) rooted() bool {
	return w.st.Uid == 0 && (w.st.Mode&0o022 == 0 || w.st.Mode&unix.S_ISVTX != 0)
}

func openAt(dir *os.File, name string, flags int) (fd int, err error) {
	err = unix.EINTR
	for errors.Is(err, unix.EINTR) {
		fd, err = unix.Openat(int(dir.Fd()), name, flags|unix.O_CLOEXEC, 0)
	}
	return fd, err
}

// OpenFolder opens the folder that an absolute path names. The descriptor, and no longer the
// path, is what the folder is known by from then on. The path leads through a symbolic link only
// if nobody but root can change that link: ErrForbidden otherwise. ErrInvalid if the folder is a
// symbolic link itself.
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

// CheckProgram fails with ErrForbidden unless nobody but root can change which program a path
// names, or the program: neither the file, nor any folder or symbolic link on the way to it. What
// was checked is then what runs, though it is run by its path. ErrNotFound if there is none.
func CheckProgram(path string) error {
	w, err := walk(path, true)
	if errors.Is(err, fs.ErrNotExist) {
		return dataset.Errorf(dataset.ErrNotFound, "%w", err)
	}
	if err != nil {
		return err
	}
	defer w.close()
	switch {
	case w.st.Mode&unix.S_IFMT != unix.S_IFREG:
		return dataset.Errorf(dataset.ErrForbidden, "%s is not a file", path)
	case w.st.Uid != 0 || w.st.Mode&0o022 != 0:
		return dataset.Errorf(dataset.ErrForbidden, "%s: others than root can write to it (chown root, chmod go-w)", path)
	case w.loose != "":
		return dataset.Errorf(dataset.ErrForbidden, "%s: others than root can write to %s, which is on the way to it (chown root, chmod go-w)", path, w.loose)
	}
	return nil
}
