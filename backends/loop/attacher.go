package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// attachTimeout bounds the wait for another process that attaches the same image, and the wait for a device to detach.
const attachTimeout = 10 * time.Second

// attacher attaches heads to loop devices and reports whether they are in use.
type attacher struct {
	*images
	containers *containers
	direct     bool                   // devices use direct I/O
	mountPath  func(uuid.UUID) string // the path on which the agent mounts a dataset
}

// options returns the options of the loop device of an image.
func (a *attacher) options() loopdev.Options {
	return loopdev.Options{DirectIO: a.direct, BlockSize: sector, Sole: true}
}

// OpenDevice attaches the image at path. If the image is attached already, it opens the existing device.
func (a *attacher) OpenDevice(ctx context.Context, path string) (*loopdev.Device, error) {
	return openDevice(ctx, path, a.options())
}

// Attach attaches the head of dataset id in dir, and describes its mount. The kernel detaches the device when its last
// user closes it, so a crash between Attach and the mount leaves nothing.
func (a *attacher) Attach(ctx context.Context, dir safefile.Dir, id uuid.UUID, opts backends.AttachOptions) (
	backends.Attachment, error) {
	var att backends.Attachment
	fs, grow, err := a.Inspect(dir, headItem)
	if err != nil {
		return att, err
	}
	if fs == luks {
		return a.attachEncrypted(ctx, dir, opts)
	}
	if d, rErr := shelf.ReadRecord(dir, id); rErr == nil && d.Encryption != nil {
		return att, dataset.Errorf(dataset.ErrCorrupt, "its record says that it is encrypted, but its image is not")
	}
	dev, err := a.attachHead(ctx, dir)
	if err != nil {
		return att, err
	}
	return backends.Attachment{Mount: mountOf(dev.Path, fs, grow, opts), Release: dev.Close}, nil
}

// attachHead attaches the head. It first gives the head an image that no snapshot shares.
func (a *attacher) attachHead(ctx context.Context, dir safefile.Dir) (*loopdev.Device, error) {
	for try := 0; ; try++ {
		err := a.Unshare(ctx, dir)
		if err != nil && !errors.Is(err, loopdev.ErrAttached) {
			if err = backends.NoSpace(err); errors.Is(err, dataset.ErrNoSpace) {
				err = fmt.Errorf("pool %s lacks space for a separate image (remove snapshots or volumes there): "+
					"%w", a.pool, err)
			}
			return nil, err
		}
		a.step("attach.owned")
		dev, err := a.OpenDevice(ctx, dir.Path(a.layout.Image(headItem)))
		if err != nil && !errors.Is(err, loopdev.ErrShared) {
			return nil, err
		}
		if err == nil {
			// Check that the device has the present head: the head may have been replaced since it was attached.
			st, err := dir.Lstat(a.layout.Image(headItem))
			if err == nil && st.Ino == dev.Inode && st.Nlink == 1 {
				return dev, nil
			}
			if err := errors.Join(err, dev.Close()); err != nil {
				return nil, err
			}
		}
		// The image has a second name: a snapshot is being taken, or a crash left the name.
		if try == busyTries/10 {
			if err := a.DropSecondNames(dir); err != nil {
				return nil, err
			}
		}
		if try == busyTries {
			return nil, dataset.Errorf(dataset.ErrInUse,
				"its image has a second name, and a loop device (see losetup -a) that does not detach")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(busyPause):
		}
	}
}

// attachEncrypted does the work of Attach for an encrypted head. It changes nothing if the key is not available.
func (a *attacher) attachEncrypted(
	ctx context.Context,
	dir safefile.Dir,
	opts backends.AttachOptions,
) (backends.Attachment, error) {
	var att backends.Attachment
	key, err := a.containers.dataKey(ctx, dir)
	if err != nil {
		return att, err
	}
	dev, err := a.attachHead(ctx, dir)
	if err != nil {
		return att, err
	}
	// The mapping keeps the loop device open.
	defer dev.Close()
	open, err := a.containers.Open(ctx, dir, dev.Path, key)
	if err != nil {
		return att, err
	}
	fs, size, err := superblock(open)
	innerSize, sErr := open.Size()
	if err := errors.Join(err, sErr); err != nil {
		return att, errors.Join(fmt.Errorf("in the encrypted container: %w", err), open.Close())
	}
	att.Mount = mountOf(open.Path(), fs, innerSize-size > growSlack, opts)
	att.Release = open.Close
	return att, nil
}

// A check for a use is repeated BusyTries times with a pause. A container that is being started has copies of all
// mounts of the host for a moment. A child that was just forked has copies of all descriptors. Both keep loop devices
// in use for a moment after their datasets were unmounted.
const (
	busyTries = 100
	busyPause = 10 * time.Millisecond
)

// CheckIdle fails with ErrInUse if the head in dir is mounted in any mount namespace, or stays attached to a loop
// device. A copy of the agent's mount in another namespace does not count if Release can end it.
func (a *attacher) CheckIdle(ctx context.Context, dir safefile.Dir) error {
	_, err := a.leftover(ctx, dir)
	return err
}

// Release is CheckIdle for a caller that changes or replaces the head. If copies of the agent's mount keep the
// filesystem in the head alive, Release shuts it down, so that nobody can write to it later, and gives the head another
// image with the same content. The former image stays attached until the copies end. If discard is set, the caller
// destroys the dataset: Release shuts the filesystem down and empties the image instead.
func (a *attacher) Release(ctx context.Context, dir safefile.Dir, discard bool) error {
	device, err := a.leftover(ctx, dir)
	if err != nil || device == "" {
		return err
	}
	fs, _, err := a.Inspect(dir, headItem)
	if err != nil {
		return err
	}
	spec := mount.Spec{Source: device, FSType: fs, Options: mountOptions(fs, nil)}
	root, err := mount.Detached(spec)
	if errors.Is(err, unix.EBUSY) { // it was mounted read-only
		spec.ReadOnly = true
		root, err = mount.Detached(spec)
	}
	isDown := errors.Is(err, unix.EIO) // an error, such as a full pool, has shut it down
	if err != nil && !isDown {
		return dataset.Errorf(dataset.ErrInUse, "it is attached to %s, and cannot be shut down: %w", device, err)
	}
	image, err := dir.OpenFile(a.layout.Image(headItem), os.O_RDWR)
	if err != nil {
		return errors.Join(err, root.Close())
	}
	defer image.Close()
	abandon := func() error {
		a.step("release.frozen")
		if discard {
			return nil
		}
		return a.Abandon(dir, image)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, fenceTimeout, fmt.Errorf("no answer for %s: try again", fenceTimeout))
	defer cancel()
	if isDown {
		err = abandon()
	} else {
		err = fsctl.Fence(ctx, root, abandon)
	}
	if err != nil {
		return backends.NoSpace(fmt.Errorf("shut down its filesystem, which copies of its mount in other mount "+
			"namespaces keep alive: %w", err))
	}
	a.step("release.fenced")
	// The blocks are free at once, although the device has the image. After a failure they are free when the device
	// ends.
	var st unix.Stat_t
	if discard || unix.Fstat(int(image.Fd()), &st) == nil && st.Nlink == 0 {
		_ = image.Truncate(0)
	}
	return nil
}

// fenceTimeout bounds the freeze of a filesystem. It writes out what has not been written yet.
const fenceTimeout = 30 * time.Second

// leftover fails as CheckIdle does. If copies of the agent's mount keep the head attached, it returns the device.
func (a *attacher) leftover(ctx context.Context, dir safefile.Dir) (device string, err error) {
	for try := 0; ; try++ {
		device, err := a.device(dir)
		if err != nil || device == "" {
			return "", err
		}
		table, err := mount.Table()
		if err != nil {
			return "", err
		}
		mapping, mapped, err := a.containers.DropUnused(dir)
		if err != nil {
			return "", err
		}
		mounted := table.From(device)
		if all := table.Of(int(mapping.Major), int(mapping.Minor)); mapped && len(all) > 0 {
			mounted = all[0]
		}
		if mounted != nil {
			return "", dataset.Errorf(dataset.ErrInUse, "%w", inuse.PathUser(mounted.Mountpoint))
		}
		if try == busyTries || ctx.Err() != nil {
			if mapped {
				device = mapping.Node()
			}
			return device, a.checkCopies(ctx, dir, device, mapped)
		}
		select {
		case <-ctx.Done():
		case <-time.After(busyPause):
		}
	}
}

// device returns the loop device of the head in dir, or "" if it has none.
func (a *attacher) device(dir safefile.Dir) (string, error) {
	f, err := dir.Open(a.layout.Image(headItem))
	if err != nil {
		return "", safefile.AbsentIsFine(err)
	}
	defer f.Close()
	info, _, err := loopdev.Attached(f)
	return info.Path, err
}

// checkCopies fails with ErrInUse unless only copies of the agent's mount keep a device in use that is not mounted in
// this mount namespace. The error names a process that has the device mounted in another namespace, or has a file of it
// open. For a mapping, it fails also because of a copy: the next mapping of the dataset needs the same name.
func (a *attacher) checkCopies(ctx context.Context, dir safefile.Dir, device string, mapped bool) error {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return dataset.Errorf(dataset.ErrInUse, "it is attached to %s, and its users are unknown: %w", device, err)
	}
	own := ""
	if id, ok := shelf.ParseID(filepath.Base(dir.Name())); ok && !mapped {
		own = a.mountPath(id)
	}
	user, copies, err := inuse.FindUser(ctx, int(unix.Major(st.Rdev)), int(unix.Minor(st.Rdev)), own)
	switch {
	case err != nil:
		return dataset.Errorf(dataset.ErrInUse, "it is attached to %s, and its users are unknown: %w", device, err)
	case user != nil:
		return dataset.Errorf(dataset.ErrInUse, "it is in use: %w", user)
	case len(copies) == 0:
		return dataset.Errorf(dataset.ErrInUse, "%w", inuse.DeviceUser(device))
	}
	return nil
}

// mountOf describes the mount of a filesystem on a device.
func mountOf(device, fs string, grow bool, opts backends.AttachOptions) backends.Mount {
	return backends.Mount{
		Source:  device,
		FSType:  fs,
		Options: mountOptions(fs, opts.Mount),
		// A device node in a volume must not give access to a disk of the host.
		Flags: backends.MountFlags{ReadOnly: opts.ReadOnly, NoDev: true},
		Grow:  grow && !opts.ReadOnly,
	}
}
