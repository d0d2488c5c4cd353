package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/dm"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/safefile"
)

// attachTimeout bounds the wait for another process that attaches the same image, and the wait for a device to detach.
const attachTimeout = 10 * time.Second

// openDevice attaches the image at path. If the image is attached already, it opens the existing device.
func (p *Pool) openDevice(ctx context.Context, path string) (*loopdev.Device, error) {
	return openDevice(ctx, path, loopdev.Options{DirectIO: p.direct, BlockSize: sector, Sole: true})
}

// openDevice attaches the image at path. If the image is attached already, it opens the existing device.
func openDevice(ctx context.Context, path string, opts loopdev.Options) (*loopdev.Device, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, attachTimeout, errors.New("timed out"))
	defer cancel()
	for {
		dev, err := loopdev.Attach(ctx, path, opts)
		var other *loopdev.AttachedError
		if !errors.As(err, &other) {
			return dev, err
		}
		dev, err = loopdev.OpenExisting(other.Device)
		// The last user of the device has just gone, so the image can be attached again.
		if errors.Is(err, loopdev.ErrGone) && ctx.Err() == nil {
			continue
		}
		return dev, err
	}
}

// Attach implements backends.Pool. The kernel detaches the loop device when its last user closes it, so a crash between
// Attach and the mount leaves nothing.
func (p *Pool) Attach(ctx context.Context, id uuid.UUID, opts backends.AttachOptions) (
	att backends.Attachment, err error) {
	defer backends.Wrap(&err, "attach dataset %s", id)
	f, err := p.findHead(id)
	if err != nil {
		return att, err
	}
	defer f.Close()
	dir := f.Dir
	fs, grow, err := p.inspect(dir, headItem)
	if err != nil {
		return att, err
	}
	if fs == luks {
		return p.attachEncrypted(ctx, dir, opts)
	}
	if d, rErr := shelf.ReadRecord(dir, id); rErr == nil && d.Encryption != nil {
		return att, dataset.Errorf(dataset.ErrCorrupt, "its record says that it is encrypted, but its image is not")
	}
	dev, err := p.attachHead(ctx, dir)
	if err != nil {
		return att, err
	}
	return backends.Attachment{Mount: mountOf(dev.Path, fs, grow, opts), Release: dev.Close}, nil
}

// attachHead attaches the head. It first gives the head an image that no snapshot shares.
func (p *Pool) attachHead(ctx context.Context, dir safefile.Dir) (*loopdev.Device, error) {
	for try := 0; ; try++ {
		err := p.unshare(ctx, dir)
		if err != nil && !errors.Is(err, loopdev.ErrAttached) {
			if err = backends.NoSpace(err); errors.Is(err, dataset.ErrNoSpace) {
				err = fmt.Errorf("pool %s lacks space for a separate image (remove snapshots or volumes there): "+
					"%w", p.name, err)
			}
			return nil, err
		}
		p.step("attach.owned")
		dev, err := p.openDevice(ctx, dir.Path(p.layout.Image(headItem)))
		if err != nil && !errors.Is(err, loopdev.ErrShared) {
			return nil, err
		}
		if err == nil {
			// Check that the device has the present head: the head may have been replaced since it was attached.
			st, err := dir.Lstat(p.layout.Image(headItem))
			if err == nil && st.Ino == dev.Inode && st.Nlink == 1 {
				return dev, nil
			}
			if err := errors.Join(err, dev.Close()); err != nil {
				return nil, err
			}
		}
		// The image has a second name: a snapshot is being taken, or a crash left the name.
		if try == busyTries/10 {
			if err := p.dropSecondNames(dir); err != nil {
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
func (p *Pool) attachEncrypted(
	ctx context.Context,
	dir safefile.Dir,
	opts backends.AttachOptions,
) (backends.Attachment, error) {
	var att backends.Attachment
	key, err := p.dataKey(ctx, dir)
	if err != nil {
		return att, err
	}
	dev, err := p.attachHead(ctx, dir)
	if err != nil {
		return att, err
	}
	// The mapping keeps the loop device open.
	defer dev.Close()
	open, err := p.openContainer(ctx, dir, dev.Path, key)
	if err != nil {
		return att, err
	}
	fs, size, err := superblock(open)
	innerSize, sErr := open.Size()
	if err := errors.Join(err, sErr); err != nil {
		return att, errors.Join(fmt.Errorf("in the encrypted container: %w", err), open.Close())
	}
	att.Mount = mountOf(open.Path(), fs, innerSize-size > mkfs.GrowSlack, opts)
	att.Release = open.Close
	return att, nil
}

// A check for a use is repeated busyTries times with a pause. A container that is being started has copies of all
// mounts of the host for a moment. A child that was just forked has copies of all descriptors. Both keep loop devices
// in use for a moment after their datasets were unmounted.
const (
	busyTries = 100
	busyPause = 10 * time.Millisecond
)

// release is CheckIdle for a caller that changes or replaces the head. If copies of the agent's mount keep the
// filesystem in the head alive, Release shuts it down, so that nobody can write to it later, and gives the head another
// image with the same content. The former image stays attached until the copies end. If discard is set, the caller
// destroys the dataset: Release shuts the filesystem down and empties the image instead.
func (p *Pool) release(ctx context.Context, dir safefile.Dir, discard bool) error {
	device, err := p.leftover(ctx, dir)
	if err != nil || device == "" {
		return err
	}
	fs, _, err := p.inspect(dir, headItem)
	if err != nil {
		return err
	}
	spec := mount.Spec{Source: device, FSType: fs, Options: mkfs.MountOptions(fs, nil)}
	root, err := mount.Detached(spec)
	if errors.Is(err, unix.EBUSY) { // it was mounted read-only
		spec.ReadOnly = true
		root, err = mount.Detached(spec)
	}
	isDown := errors.Is(err, unix.EIO) // an error, such as a full pool, has shut it down
	if err != nil && !isDown {
		return dataset.Errorf(dataset.ErrInUse, "it is attached to %s, and cannot be shut down: %w", device, err)
	}
	image, err := dir.OpenFile(p.layout.Image(headItem), os.O_RDWR)
	if err != nil {
		return errors.Join(err, root.Close())
	}
	defer image.Close()
	abandon := func() error {
		p.step("release.frozen")
		if discard {
			return nil
		}
		return p.abandon(dir, image)
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
	p.step("release.fenced")
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
func (p *Pool) leftover(ctx context.Context, dir safefile.Dir) (device string, err error) {
	for try := 0; ; try++ {
		device, err := p.deviceOf(dir)
		if err != nil || device == "" {
			return "", err
		}
		table, err := mount.Table()
		if err != nil {
			return "", err
		}
		mapping, mapped, err := p.dropUnused(dir)
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
			return device, p.checkCopies(ctx, dir, device, mapped)
		}
		select {
		case <-ctx.Done():
		case <-time.After(busyPause):
		}
	}
}

// deviceOf returns the loop device of the head in dir, or "" if it has none.
func (p *Pool) deviceOf(dir safefile.Dir) (string, error) {
	f, err := dir.Open(p.layout.Image(headItem))
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
func (p *Pool) checkCopies(ctx context.Context, dir safefile.Dir, device string, mapped bool) error {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return dataset.Errorf(dataset.ErrInUse, "it is attached to %s, and its users are unknown: %w", device, err)
	}
	own := ""
	if id, ok := shelf.ParseID(filepath.Base(dir.Name())); ok && !mapped {
		own = p.mountPath(id)
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
		Options: mkfs.MountOptions(fs, opts.Mount),
		// A device node in a volume must not give access to a disk of the host.
		Flags: backends.MountFlags{ReadOnly: opts.ReadOnly, NoDev: true},
		Grow:  grow && !opts.ReadOnly,
	}
}

// withMountedImage mounts the filesystem in the image at path where no other process sees it, calls f with its root,
// and flushes it.
func withMountedImage(ctx context.Context, path, fs string, f func(dir *os.File) error) error {
	dev, err := openDevice(ctx, path, loopdev.Options{BlockSize: sector, Sole: true})
	if err != nil {
		return err
	}
	return errors.Join(withMountedDevice(dev.Path, fs, f), dev.Close())
}

// withMountedDevice is withMountedImage for the filesystem on a device.
func withMountedDevice(device, fs string, f func(dir *os.File) error) error {
	dir, err := mount.Detached(mount.Spec{Source: device, FSType: fs, Options: mkfs.MountOptions(fs, nil)})
	if err != nil {
		return err
	}
	return errors.Join(f(dir), fsctl.Sync(dir), dir.Close())
}

// waitDetached waits until no device has an image attached, and prevents new attachments until the image is closed. It
// is called before resize2fs, because the mount of the image may still exist. A detached mount lasts until its last
// descriptor is closed, and a child that this process has just forked has a copy of the descriptor until its exec. When
// the mount ends, the kernel writes to the image, and would overwrite the changes of resize2fs.
func waitDetached(ctx context.Context, image *os.File) error {
	ctx, cancel := context.WithTimeoutCause(ctx, attachTimeout, errors.New("timed out"))
	defer cancel()
	for {
		err := loopdev.Claim(ctx, image)
		if !errors.Is(err, loopdev.ErrAttached) {
			return err
		}
		select {
		case <-ctx.Done():
			return dataset.Errorf(dataset.ErrInUse, "%w: %w", err, context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
}

// The image of an encrypted dataset contains a LUKS2 container with the filesystem in it. Snapshots, clones and copies
// work as for any other image and need no key, because they share, send and receive ciphertext. Each image is formatted
// separately: the blocks that a template shares would be the same for datasets with different keys.

func (p *Pool) mappingSuffix() string { return "-" + p.ID().String()[:8] }

// mapping returns the name of the device mapping for the image of the dataset in dir. The name includes the pool,
// because two pools of a host can have the same dataset.
func (p *Pool) mapping(dir safefile.Dir) string {
	id, _, _ := strings.Cut(filepath.Base(dir.Name()), ".") // a deleted dataset can have a number after its UUID
	return "drover-" + id + p.mappingSuffix()
}

// dataKey returns the key of the dataset in dir. It fails with ErrForbidden if no keys are available.
func (p *Pool) dataKey(ctx context.Context, dir safefile.Dir) ([]byte, error) {
	id, ok := shelf.ParseID(filepath.Base(dir.Name()))
	if !ok {
		return nil, fmt.Errorf("%s is not the folder of a dataset", dir.Name())
	}
	d, err := shelf.ReadRecord(dir, id)
	if err != nil { // the provider of the keys may have the record
		d = &dataset.Dataset{ID: id}
	}
	return p.keyOf(ctx, *d)
}

// keyOf returns the data key of a dataset. It fails with ErrForbidden if no keys are available.
func (p *Pool) keyOf(ctx context.Context, d dataset.Dataset) ([]byte, error) {
	if err := crypt.Available(); err != nil {
		return nil, err
	}
	if p.keys == nil {
		return nil, dataset.Errorf(dataset.ErrForbidden, "it is encrypted, and no keys are available")
	}
	return p.keys.DataKey(ctx, d)
}

func (p *Pool) openContainer(ctx context.Context, dir safefile.Dir, device string, key []byte) (*crypt.Device, error) {
	return crypt.New(p.backend.runner).Open(ctx, device, p.mapping(dir), key)
}

// keyFor returns the data key of the dataset in dir. It fails if the key does not open the container in the image. The
// image must not be attached to a device. For an attached image, use prepareGrowth.
func (p *Pool) keyFor(ctx context.Context, dir safefile.Dir, image string) ([]byte, error) {
	key, err := p.dataKey(ctx, dir)
	if err == nil {
		err = crypt.New(p.backend.runner).CheckKey(ctx, dir.Path(image), key)
	}
	return key, err
}

// prepareGrowth prepares the growth of an encrypted head that is mounted from a loop device. It returns the filesystem
// of the head, the path of its mapping, and a function that makes the mapping fill the device. It changes nothing,
// and fails if the key is absent or wrong.
func (p *Pool) prepareGrowth(ctx context.Context, dir safefile.Dir, device string) (fs, inner string,
	inside func() (int64, error), err error) {
	key, err := p.dataKey(ctx, dir)
	if err == nil {
		err = crypt.New(p.backend.runner).CheckKey(ctx, device, key)
	}
	if err != nil {
		return "", "", nil, err
	}
	m, exists, err := dm.Lookup(p.mapping(dir))
	if err == nil && !exists {
		err = dataset.Errorf(dataset.ErrConflict, "it is not mounted")
	}
	if err != nil {
		return "", "", nil, err
	}
	dev, err := os.Open(m.Node())
	if err != nil {
		return "", "", nil, err
	}
	fs, _, err = superblock(dev)
	return fs, m.Node(), func() (int64, error) { return p.fillDevice(ctx, m.Name, m.Node(), key) },
		errors.Join(err, dev.Close())
}

// fillDevice makes a mapping fill its loop device, and returns the size of the mapping in bytes.
func (p *Pool) fillDevice(ctx context.Context, name, path string, key []byte) (int64, error) {
	size, err := crypt.New(p.backend.runner).Resize(context.WithoutCancel(ctx), name, path, key)
	p.step("resize.mapping")
	return size, err
}

// dropUnused removes the mapping of the head in dir if it is unused. A crash while a mapping is made leaves such a
// mapping. dropUnused returns the mapping, and whether it existed.
func (p *Pool) dropUnused(dir safefile.Dir) (m dm.Device, exists bool, err error) {
	m, exists, err = dm.Lookup(p.mapping(dir))
	if err == nil && exists && m.Open == 0 {
		err = dm.Drop(m.Name)
	}
	return m, exists, err
}

// discardMapping removes the mapping of the dataset in dir. It is called if the content of the dataset is not needed
// any more. If a command of a killed process still uses the mapping, the kernel removes the mapping when the command
// ends.
func (p *Pool) discardMapping(dir safefile.Dir) error {
	if !p.info.Capabilities.Encryption {
		return nil
	}
	return dm.Drop(p.mapping(dir))
}

// dropAllUnused removes the unused mappings of the pool, and waits until they are gone.
func (p *Pool) dropAllUnused() error {
	if !p.info.Capabilities.Encryption {
		return nil
	}
	return crypt.RemoveUnused(p.mappingSuffix())
}
