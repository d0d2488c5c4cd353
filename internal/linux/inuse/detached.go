package inuse

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/mount"
)

// placeDetached returns the place of an open file or directory in its filesystem if its mount is in no
// table: a detached mount (umount2(2), MNT_DETACH) or a clone that was never attached (open_tree(2)). d
// is the filesystem, and path is the link of the descriptor.
//
// For such a file, the kernel shows the path below the root of its mount, and does not show where that root is. So
// placeDetached opens the file once more by its handle (open_by_handle_at(2)), through a mount of the host whose root
// is known. The kernel has the open file in memory, so it reads no disk. If no such mount exists, or if the filesystem
// has no handles, the file may be anywhere in the filesystem. A file with several names may also be anywhere, because
// it may have been opened by another name than the kernel shows.
//
// still is false if the descriptor was closed before its place was found.
func (s *Scan) placeDetached(d *device, path string) (f File, still bool) {
	anywhere := File{major: d.major, minor: d.minor, path: "/", unplaced: true}
	file := handled{path: path}
	if err := file.readStat(); err != nil {
		return anywhere, !mount.Ended(err)
	}
	anywhere.removed = file.stat.Nlink == 0
	mounts := s.lookupMounts(d)
	if len(mounts) == 0 || file.readHandle() != nil {
		return anywhere, true
	}
	for _, e := range mounts {
		o, err := file.placeThrough(e)
		switch {
		case err != nil:
		case file.stat.Mode&unix.S_IFMT != unix.S_IFDIR && file.stat.Nlink > 1: // it has several names
			anywhere.name = o.path
			return anywhere, true
		default:
			return o, true
		}
	}
	return anywhere, true
}

const (
	// maxLookupMounts is the maximum number of mounts through which a file is looked for. A host with a btrfs
	// usually has about ten subvolumes mounted.
	maxLookupMounts = 16
	// detachedWork is the work to place one file, in units of work.
	detachedWork = 16
)

// lookupMounts returns the host's mounts of a filesystem through which files are placed, at most maxLookupMounts.
// Those that show the largest parts of the filesystem come first. It returns no mount of a share, because the
// server may be dead.
func (s *Scan) lookupMounts(d *device) mount.Mounts {
	s.mu.Lock()
	defer s.mu.Unlock()
	number := deviceNumber{d.major, d.minor}
	if cached, ok := s.lookupMountsOf[number]; ok {
		return cached
	}
	list := slices.DeleteFunc(s.own.Of(d.major, d.minor), mount.OnShare)
	slices.SortStableFunc(list, func(a, b *mount.Entry) int { return len(a.Root) - len(b.Root) })
	list = list[:min(len(list), maxLookupMounts)]
	if s.lookupMountsOf == nil {
		s.lookupMountsOf = map[deviceNumber]mount.Mounts{}
	}
	s.lookupMountsOf[number] = list
	return list
}

// handled is an open file with its handle.
type handled struct {
	path   string // the link of the descriptor in /proc
	stat   unix.Statx_t
	handle unix.FileHandle
}

// readStat reads the attributes of the file. It sends no request to a server, because the server may be dead.
func (f *handled) readStat() error {
	const fields = unix.STATX_TYPE | unix.STATX_INO | unix.STATX_NLINK
	if err := unix.Statx(unix.AT_FDCWD, f.path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, fields,
		&f.stat); err != nil {
		return &os.PathError{Op: "statx", Path: f.path, Err: err}
	}
	return nil
}

// readHandle reads the handle of the file. It fails if the filesystem has no handles.
func (f *handled) readHandle() (err error) {
	if f.handle, _, err = unix.NameToHandleAt(unix.AT_FDCWD, f.path, unix.AT_SYMLINK_FOLLOW); err != nil {
		return &os.PathError{Op: "name_to_handle_at", Path: f.path, Err: err}
	}
	return nil
}

// isSameFile reports whether the attributes a belong to the same file.
func (f *handled) isSameFile(a unix.Statx_t) bool {
	return a.Ino == f.stat.Ino && a.Dev_major == f.stat.Dev_major && a.Dev_minor == f.stat.Dev_minor
}

// placeThrough opens the file by its handle, through the mount e of the host, and returns its place in the
// filesystem. It fails if another mount covers e, and if e does not show the file. If the file has several
// names, the place is that of one of them.
func (f *handled) placeThrough(e *mount.Entry) (File, error) {
	// open_by_handle_at(2) takes no O_PATH descriptor of a mount.
	root, err := unix.Open(e.Mountpoint, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|
		unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return File{}, &os.PathError{Op: "open", Path: e.Mountpoint, Err: err}
	}
	defer unix.Close(root)
	var st unix.Statx_t
	if err := unix.Statx(root, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID|unix.STATX_INO,
		&st); err != nil {
		return File{}, &os.PathError{Op: "statx", Path: e.Mountpoint, Err: err}
	}
	if st.Mnt_id != uint64(e.ID) {
		return File{}, fmt.Errorf("another mount covers %s", e.Mountpoint)
	}
	fd, err := unix.OpenByHandleAt(root, f.handle, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return File{}, &os.PathError{Op: "open_by_handle_at", Path: f.path, Err: err}
	}
	defer unix.Close(fd)
	opened := handled{path: fmt.Sprintf("/proc/self/fd/%d", fd)}
	if err := opened.readStat(); err != nil {
		return File{}, err
	}
	if !f.isSameFile(opened.stat) {
		return File{}, fmt.Errorf("%s is not the file that its handle refers to", f.path)
	}
	link, err := os.Readlink(opened.path)
	if err != nil {
		return File{}, err
	}
	o := place(seenMount{Entry: e}, link)
	// The kernel shows "/" for a file that the mount does not show (prepend_path in fs/d_path.c).
	isRoot := e.Mountpoint == "/" && f.isSameFile(st)
	if o.unplaced || strings.TrimSuffix(link, " (deleted)") == "/" && !isRoot {
		return File{}, fmt.Errorf("%s is outside of the tree that %s shows", f.path, e.Mountpoint)
	}
	o.through = seenMount{}
	return o, nil
}
