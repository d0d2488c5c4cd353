package loop

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/linux/mount"
)

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

// withMountedImage mounts the filesystem in the image at path where no other process sees it, calls f with its root,
// and flushes it.
func withMountedImage(ctx context.Context, path, fs string, f func(dir *os.File) error) error {
	dev, err := openDevice(ctx, path, loopdev.Options{BlockSize: sector, Sole: true})
	if err != nil {
		return err
	}
	return errors.Join(withMountedDevice(dev.Path, fs, f), dev.Close())
}

// withMountedDevice is WithMountedImage for the filesystem on a device.
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
