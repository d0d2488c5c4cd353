// Package attach attaches the images of datasets to loop devices and opens the LUKS containers in them. Packages loop,
// growth, poolimage and template use it. An [Attacher] and its [Containers] belong to one open pool. They do not change
// after they were made, and keep no record of devices: which images are attached is read from the kernel each time. The
// locks of package loopdev ensure that an image has one device at most.
package attach

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/imagefile"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// attachTimeout bounds the wait for another process that attaches the same image, and the wait for a device to detach.
const attachTimeout = 10 * time.Second

// Attacher attaches heads to loop devices and reports whether they are in use.
type Attacher struct {
	pool       string // its name, for errors
	layout     layout.Layout
	images     *imagefile.Images
	sharing    *imagefile.Sharing
	containers *Containers
	direct     bool // devices use direct I/O
	step       func(string)
}

// New returns the attacher of the named pool. If direct is set, devices use direct I/O.
func New(
	pool string,
	l layout.Layout,
	im *imagefile.Images,
	s *imagefile.Sharing,
	c *Containers,
	direct bool,
	step func(string),
) *Attacher {
	return &Attacher{pool: pool, layout: l, images: im, sharing: s, containers: c, direct: direct, step: step}
}

// options returns the options of the loop device of an image.
func (a *Attacher) options() loopdev.Options {
	return loopdev.Options{DirectIO: a.direct, BlockSize: layout.Sector, Sole: true}
}

// OpenDevice attaches the image at path. If the image is attached already, it opens the existing device.
func (a *Attacher) OpenDevice(ctx context.Context, path string) (*loopdev.Device, error) {
	return OpenDevice(ctx, path, a.options())
}

// Attach attaches the head of dataset id in dir, and describes its mount. The kernel detaches the device when its last
// user closes it, so a crash between Attach and the mount leaves nothing.
func (a *Attacher) Attach(ctx context.Context, dir folder.Dir, id uuid.UUID, opts backends.AttachOptions) (
	backends.Attachment, error) {
	var att backends.Attachment
	fs, grow, err := a.images.Inspect(dir, layout.Head)
	if err != nil {
		return att, err
	}
	if fs == imagefile.LUKS {
		return a.attachEncrypted(ctx, dir, opts)
	}
	if d, rErr := layout.DatasetRecord(dir, id); rErr == nil && d.Encryption != nil {
		return att, dataset.Errorf(dataset.ErrCorrupt, "its record says that it is encrypted, but its image is not")
	}
	dev, err := a.attachHead(ctx, dir)
	if err != nil {
		return att, err
	}
	return backends.Attachment{Mount: mountOf(dev.Path, fs, grow, opts), Release: dev.Close}, nil
}

// attachHead attaches the head. It first gives the head an image that no snapshot shares.
func (a *Attacher) attachHead(ctx context.Context, dir folder.Dir) (*loopdev.Device, error) {
	for try := 0; ; try++ {
		err := a.sharing.Unshare(ctx, dir)
		if err != nil && !errors.Is(err, loopdev.ErrAttached) {
			if err = backends.NoSpace(err); errors.Is(err, dataset.ErrNoSpace) {
				err = fmt.Errorf("pool %s lacks space for a separate image (remove snapshots or volumes there): "+
					"%w", a.pool, err)
			}
			return nil, err
		}
		a.step("attach.owned")
		dev, err := a.OpenDevice(ctx, dir.Path(a.layout.Image(layout.Head)))
		if err != nil && !errors.Is(err, loopdev.ErrShared) {
			return nil, err
		}
		if err == nil {
			// Check that the device has the present head: the head may have been replaced since it was attached.
			st, err := dir.Lstat(a.layout.Image(layout.Head))
			if err == nil && st.Ino == dev.Inode && st.Nlink == 1 {
				return dev, nil
			}
			if err := errors.Join(err, dev.Close()); err != nil {
				return nil, err
			}
		}
		// The image has a second name: a snapshot is being taken, or a crash left the name.
		if try == BusyTries/10 {
			if err := a.sharing.DropSecondNames(dir); err != nil {
				return nil, err
			}
		}
		if try == BusyTries {
			return nil, dataset.Errorf(dataset.ErrInUse,
				"its image has a second name, and a loop device (see losetup -a) that does not detach")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(BusyPause):
		}
	}
}

// attachEncrypted does the work of Attach for an encrypted head. It changes nothing if the key is not available.
func (a *Attacher) attachEncrypted(
	ctx context.Context,
	dir folder.Dir,
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
	fs, size, err := imagefile.Superblock(open)
	innerSize, sErr := open.Size()
	if err := errors.Join(err, sErr); err != nil {
		return att, errors.Join(fmt.Errorf("in the encrypted container: %w", err), open.Close())
	}
	att.Mount = mountOf(open.Path(), fs, innerSize-size > imagefile.GrowSlack, opts)
	att.Release = open.Close
	return att, nil
}

// A check for a use is repeated BusyTries times with a pause. A container that is being started has copies of all
// mounts of the host for a moment. A child that was just forked has copies of all descriptors. Both keep loop devices
// in use for a moment after their datasets were unmounted.
const (
	BusyTries = 100
	BusyPause = 10 * time.Millisecond
)

// CheckIdle fails with ErrInUse if the head in dir is mounted in any mount namespace, or stays attached to a loop
// device.
func (a *Attacher) CheckIdle(ctx context.Context, dir folder.Dir) error {
	for try := 0; ; try++ {
		device, err := a.device(dir)
		if err != nil || device == "" {
			return err
		}
		table, err := mount.Table()
		if err != nil {
			return err
		}
		mapping, mapped, err := a.containers.DropUnused(dir)
		if err != nil {
			return err
		}
		mounted := table.From(device)
		if all := table.Of(int(mapping.Major), int(mapping.Minor)); mapped && len(all) > 0 {
			mounted = all[0]
		}
		if mounted != nil {
			return dataset.Errorf(dataset.ErrInUse, "%w", inuse.PathUser(mounted.Mountpoint))
		}
		if try == BusyTries || ctx.Err() != nil {
			if mapped {
				device = mapping.Path()
			}
			return inUseError(ctx, device)
		}
		select {
		case <-ctx.Done():
		case <-time.After(BusyPause):
		}
	}
}

// device returns the loop device of the head in dir, or "" if it has none.
func (a *Attacher) device(dir folder.Dir) (string, error) {
	f, err := dir.Open(a.layout.Image(layout.Head))
	if err != nil {
		return "", folder.AbsentIsFine(err)
	}
	defer f.Close()
	info, _, err := loopdev.Attached(f)
	return info.Path, err
}

// inUseError returns the error for a head whose device is in use but is not mounted in this mount namespace. The error
// names a process that has the device mounted in another namespace, or has a file of it open.
func inUseError(ctx context.Context, device string) error {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return dataset.Errorf(dataset.ErrInUse, "it is attached to %s, and its users are unknown: %w", device, err)
	}
	user, err := inuse.FindUser(ctx, int(unix.Major(st.Rdev)), int(unix.Minor(st.Rdev)))
	switch {
	case err != nil:
		return dataset.Errorf(dataset.ErrInUse, "it is attached to %s, and its users are unknown: %w", device, err)
	case user != nil:
		return dataset.Errorf(dataset.ErrInUse, "it is in use: %w", user)
	}
	return dataset.Errorf(dataset.ErrInUse, "%w", inuse.DeviceUser(device))
}

// mountOf describes the mount of a filesystem on a device.
func mountOf(device, fs string, grow bool, opts backends.AttachOptions) backends.Mount {
	return backends.Mount{
		Source:  device,
		FSType:  fs,
		Options: MountOptions(fs, opts.Mount),
		// A device node in a volume must not give access to a disk of the host.
		Flags: backends.MountFlags{ReadOnly: opts.ReadOnly, NoDev: true},
		Grow:  grow && !opts.ReadOnly,
	}
}
