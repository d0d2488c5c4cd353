package inuse

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/mount"
)

// placeDetached returns the place of an open file or directory in its filesystem if its mount is in no
// table: a detached mount (umount2(2), MNT_DETACH) or a clone that was never attached (open_tree(2)). d
// is the filesystem, and path is the link of the descriptor.
//
// For such a file, the kernel shows the path below the root of its mount, and does not show where that
// root is. So placeDetached opens the file once more by its handle (open_by_handle_at(2)), through a
// mount of the host whose root is known. The file is open, so it is in the kernel's memory and no disk is
// read. If no such mount exists, or if the filesystem has no handles, the file may be anywhere in the
// filesystem.
func (s *Scan) placeDetached(d *device, path string) File {
	anywhere := File{major: d.major, minor: d.minor, path: "/", unplaced: true}
	for _, e := range s.own.Of(d.major, d.minor) {
		if mount.OnShare(e) {
			continue // the server may be dead
		}
		if o, err := placeByHandle(e, path); err == nil {
			return o
		}
	}
	return anywhere
}

// sameFile fails unless fd and path refer to the same file, and the file has no other name. A file with
// several names may have been opened by another one than the kernel shows.
func sameFile(fd int, path string) error {
	var a, b unix.Stat_t
	if err := unix.Fstat(fd, &a); err != nil {
		return &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	if err := unix.Stat(path, &b); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if a.Dev != b.Dev || a.Ino != b.Ino {
		return fmt.Errorf("%s is another file than its handle refers to", path)
	}
	if a.Mode&unix.S_IFMT != unix.S_IFDIR && a.Nlink > 1 {
		return fmt.Errorf("%s has %d names", path, a.Nlink)
	}
	return nil
}

// placeByHandle opens the file at path by its handle, through the mount e of the host, and returns its
// place in the filesystem. It fails if the filesystem has no handles, if another mount covers e, or if
// the file has several names.
func placeByHandle(e *mount.Entry, path string) (File, error) {
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return File{}, &os.PathError{Op: "name_to_handle_at", Path: path, Err: err}
	}
	// open_by_handle_at(2) takes no O_PATH descriptor of a mount.
	root, err := unix.Open(e.Mountpoint, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return File{}, &os.PathError{Op: "open", Path: e.Mountpoint, Err: err}
	}
	defer unix.Close(root)
	var st unix.Statx_t
	if err := unix.Statx(root, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return File{}, &os.PathError{Op: "statx", Path: e.Mountpoint, Err: err}
	}
	if st.Mnt_id != uint64(e.ID) {
		return File{}, fmt.Errorf("another mount covers %s", e.Mountpoint)
	}
	fd, err := unix.OpenByHandleAt(root, handle, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return File{}, &os.PathError{Op: "open_by_handle_at", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := sameFile(fd, path); err != nil {
		return File{}, err
	}
	link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return File{}, err
	}
	o := place(seenMount{Entry: e}, link)
	if o.unplaced { // the file is outside of the tree that e shows: the link is its path in the filesystem
		o.path, o.unplaced = filepath.Clean(link), false
	}
	o.through = seenMount{}
	return o, nil
}
