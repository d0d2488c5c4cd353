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

// Image attaches the image at path, or holds the device that it has already.
func Image(ctx context.Context, path string, opts loopdev.Options) (*loopdev.Device, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, attachTimeout, errors.New("waited too long"))
	defer cancel()
	for {
		dev, err := loopdev.Attach(ctx, path, opts)
		var other *loopdev.AttachedError
		if !errors.As(err, &other) {
			return dev, err
		}
		dev, err = loopdev.Hold(other.Device)
		// Its last user has just gone: then it can be attached anew.
		if errors.Is(err, loopdev.ErrGone) && ctx.Err() == nil {
			continue
		}
		return dev, err
	}
}

// MountOptions are those that images need, before those that the profile has.
func MountOptions(fs string, more []string) []string {
	var opts []string
	if fs == mkfs.XFS {
		// All images of a size have their template's UUID.
		opts = append(opts, "nouuid")
	}
	// What is deleted in a volume gives its space back to the pool.
	if !slices.Contains(more, "nodiscard") && !slices.Contains(more, "discard") {
		opts = append(opts, "discard")
	}
	return append(opts, more...)
}

// OnDetached mounts the filesystem in the image at path where nobody sees it, and
// writes it out after f.
func OnDetached(ctx context.Context, path, fs string, f func(dir *os.File) error) error {
	dev, err := Image(ctx, path, loopdev.Options{BlockSize: layout.Sector, Sole: true})
	if err != nil {
		return err
	}
	return errors.Join(Detached(dev.Path, fs, f), dev.Close())
}

// Detached does so with the filesystem on a device.
func Detached(device, fs string, f func(dir *os.File) error) error {
	dir, err := mount.Detached(mount.Spec{Source: device, FSType: fs, Options: MountOptions(fs, nil)})
	if err != nil {
		return err
	}
	return errors.Join(f(dir), fsctl.Sync(dir), dir.Close())
}

// Unattached waits until no device has an image, and keeps them all off until it is closed. A mount
// that nobody sees ends with its last descriptor, and a child that this process has just forked has
// that one until its exec: what the kernel writes at that end would undo what resize2fs has written.
func Unattached(ctx context.Context, image *os.File) error {
	ctx, cancel := context.WithTimeoutCause(ctx, attachTimeout, errors.New("waited too long"))
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
