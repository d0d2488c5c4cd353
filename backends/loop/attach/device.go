package attach

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/linux/mount"
)

// OpenDevice attaches the image at path. If the image is attached already, it opens the existing device.
func OpenDevice(ctx context.Context, path string, opts loopdev.Options) (*loopdev.Device, error) {
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

// MountOptions returns the mount options that every image needs, followed by those of the profile.
func MountOptions(fs string, more []string) []string {
	var opts []string
	if fs == mkfs.XFS {
		// All images of one size have the UUID of their template.
		opts = append(opts, "nouuid")
	}
	// Deleting files in a volume returns their space to the pool.
	if !slices.Contains(more, "nodiscard") && !slices.Contains(more, "discard") {
		opts = append(opts, "discard")
	}
	return append(opts, more...)
}

// WithMountedImage mounts the filesystem in the image at path where no other process sees it, calls f with its root,
// and flushes it.
func WithMountedImage(ctx context.Context, path, fs string, f func(dir *os.File) error) error {
	dev, err := OpenDevice(ctx, path, loopdev.Options{BlockSize: layout.Sector, Sole: true})
	if err != nil {
		return err
	}
	return errors.Join(WithMountedDevice(dev.Path, fs, f), dev.Close())
}

// WithMountedDevice is WithMountedImage for the filesystem on a device.
func WithMountedDevice(device, fs string, f func(dir *os.File) error) error {
	dir, err := mount.Detached(mount.Spec{Source: device, FSType: fs, Options: MountOptions(fs, nil)})
	if err != nil {
		return err
	}
	return errors.Join(f(dir), fsctl.Sync(dir), dir.Close())
}

// WaitDetached waits until no device has an image attached, and prevents new attachments until the image is closed. It
// is called before resize2fs, because the mount of the image may still exist. A detached mount lasts until its last
// descriptor is closed, and a child that this process has just forked has a copy of the descriptor until its exec. When
// the mount ends, the kernel writes to the image, and would overwrite the changes of resize2fs.
func WaitDetached(ctx context.Context, image *os.File) error {
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
