package mounting

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
)

// MakeMountPoint makes the folder that a dataset is mounted on, and makes it immutable. While nothing is mounted on it,
// no user can write into the folder by mistake, not even root: the next mount would hide such data. Idempotent: a crash
// may have left a folder that is not immutable yet.
func MakeMountPoint(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("create the mount point: %w", err)
	}
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open the mount point: %w", err)
	}
	defer dir.Close()
	if err := fsctl.SetImmutable(dir, true); err != nil && !errors.Is(err, unix.EOPNOTSUPP) &&
		!errors.Is(err, unix.ENOTTY) {
		return fmt.Errorf("make the mount point immutable: %w", err)
	}
	return nil
}

// RemoveMountPoint removes the folder that a dataset was mounted on. Idempotent.
func RemoveMountPoint(path string) error {
	dir, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := fsctl.SetImmutable(dir, false); err != nil && !errors.Is(err, unix.EOPNOTSUPP) &&
		!errors.Is(err, unix.ENOTTY) {
		return err
	}
	return os.Remove(path) // removes only an empty folder
}

// MountAttached mounts an attachment of a backend on path, and releases the attachment.
func MountAttached(att backends.Attachment, path string) error {
	if err := mountOn(att.Mount, path); err != nil {
		return errors.Join(ExplainMountError(err), att.Release())
	}
	if err := att.Release(); err != nil {
		return errors.Join(err, mount.Unmount(path))
	}
	return nil
}

func mountOn(m backends.Mount, path string) error {
	if m.FSType != bindType {
		return mount.Mount(path, mountSpec(m))
	}
	src, err := os.OpenFile(m.Source, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	return mount.Bind(src, path, mount.BindFlags{ReadOnly: m.Flags.ReadOnly, NoDev: m.Flags.NoDev})
}

// mountSpec returns the arguments of mount(2) for a backend's dataset.
func mountSpec(m backends.Mount) mount.Spec {
	s := mount.Spec{
		Source:   m.Source,
		FSType:   m.FSType,
		ReadOnly: m.Flags.ReadOnly,
		Options:  append([]string(nil), m.Options...),
	}
	if m.Flags.NoDev {
		s.Options = append(s.Options, "nodev")
	}
	return s
}

// ExplainMountError adds a hint to an error of mount(2) if the kernel found a filesystem but refused to mount it. The
// hint says to look in the kernel's log, because the kernel writes the reason only there.
func ExplainMountError(err error) error {
	var failed *mount.Error
	if !errors.As(err, &failed) || failed.Step != mount.StepCreate {
		return err
	}
	for _, why := range []error{unix.EIO, unix.EUCLEAN, unix.EBADMSG, unix.EINVAL} {
		if errors.Is(err, why) {
			return fmt.Errorf("%w (dmesg shows the cause; if its filesystem is damaged, drover snapshot restore "+
				"VOLUME SNAPSHOT continues from a snapshot, and keeps the current data)", err)
		}
	}
	return err
}

// bindType is the FSType of a backend whose dataset is a folder.
const bindType = "bind"

// Thaw thaws a filesystem that a killed agent left frozen. It does nothing if the filesystem is not frozen.
func Thaw(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := fsctl.Thaw(dir); err != nil && !errors.Is(err, fsctl.ErrNotFrozen) &&
		!errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}
