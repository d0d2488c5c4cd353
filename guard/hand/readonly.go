package hand

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/mount"
)

// readOnly makes the host's mount read-only (mount_setattr(2)). It ignores EBUSY, which the kernel returns
// as long as a stopped holder has a file open for writing.
func (t *Tool) readOnly(w *processTable, target Target) error {
	fsys := w.filesystem(target)
	if fsys.entry == nil || mount.IsReadOnly(fsys.entry) {
		return nil
	}
	if err := t.marks.add(target.Dataset, mark{markReadOnly, fsys.entry.Mountpoint}); err != nil {
		return err
	}
	err := setReadOnly(fsys.entry.Mountpoint, true)
	if errors.Is(err, unix.EBUSY) {
		return nil
	}
	return err
}

func setReadOnly(path string, on bool) error {
	attr := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	if on {
		attr = unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	}
	return unix.MountSetattr(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, &attr)
}
