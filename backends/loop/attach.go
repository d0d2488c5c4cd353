package loop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/backends/loop/layout"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/loopdev"
)

// attachTimeout bounds the wait for another process that attaches the same image.
const attachTimeout = 10 * time.Second

// Attach implements backends.Pool. The device clears itself with its last user, so
// nothing is left of a crash between Attach and mount.
func (p *Pool) Attach(ctx context.Context, id uuid.UUID, opts backends.AttachOptions) (backends.Attachment, error) {
	var att backends.Attachment
	err := p.within(id, func(dir folder.Dir) error {
		fs, grow, err := p.inspect(dir, layout.Head)
		if err != nil {
			return err
		}
		if fs == luks {
			att, err = p.attachEncrypted(ctx, dir, opts)
			return err
		}
		if d, rErr := layout.DatasetRecord(dir, id); rErr == nil && d.Encryption != nil {
			return dataset.Errorf(dataset.ErrCorrupt, "its record says that it is encrypted, and its image is not")
		}
		dev, err := p.attachHead(ctx, dir, loopdev.Options{DirectIO: p.direct, BlockSize: layout.Sector, Sole: true})
		if err != nil {
			return err
		}
		att = backends.Attachment{Mount: mountOf(dev.Path, fs, grow, opts), Release: dev.Close}
		return nil
	})
	if err != nil {
		return backends.Attachment{}, fmt.Errorf("attach dataset %s: %w", id, err)
	}
	return att, nil
}

// mountOf describes the mount of a filesystem on a device.
func mountOf(device, fs string, grow bool, opts backends.AttachOptions) backends.Mount {
	return backends.Mount{
		Source:  device,
		FSType:  fs,
		Options: mountOptions(fs, opts.Mount),
		// A device node in a volume is nobody's way to a disk of the host.
		Flags: backends.MountFlags{ReadOnly: opts.ReadOnly, NoDev: true},
		Grow:  grow && !opts.ReadOnly,
	}
}

// attach attaches the image at path, or holds the device that it has already.
func attach(ctx context.Context, path string, opts loopdev.Options) (*loopdev.Device, error) {
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

// mountOptions are those that images need, before those that the profile has.
func mountOptions(fs string, more []string) []string {
	var opts []string
	if fs == xfs {
		// All images of a size have their template's UUID.
		opts = append(opts, "nouuid")
	}
	// What is deleted in a volume gives its space back to the pool.
	if !slices.Contains(more, "nodiscard") && !slices.Contains(more, "discard") {
		opts = append(opts, "discard")
	}
	return append(opts, more...)
}

// growSlack is what a filesystem may be smaller than its image by itself, in bytes: a
// last group that would be too small is left out, by ext4 more than by XFS.
const growSlack = 16 << 20

// inspect tells which filesystem an item's image holds, and whether it is smaller than
// the image, as a resize that was cut short leaves it. Of one that is encrypted it may be.
func (p *Pool) inspect(dir folder.Dir, item string) (fs string, grow bool, err error) {
	f, err := dir.Open(p.layout.Image(item))
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	return look(f, item)
}

// look is inspect of an item's image that is open.
func look(image *os.File, item string) (fs string, grow bool, err error) {
	fs, size, err := superblock(image)
	if errors.Is(err, dataset.ErrCorrupt) && item == layout.Head && crypt.FirstLost(image) == nil {
		err = fmt.Errorf("%w (drover snapshot restore VOLUME SNAPSHOT goes on from a snapshot, and keeps "+
			"what is there)", err)
	}
	if err != nil {
		return "", false, fmt.Errorf("%s: %w", image.Name(), err)
	}
	if fs == luks {
		return fs, true, nil
	}
	have, err := image.Seek(0, io.SeekEnd)
	return fs, have-size > growSlack, err
}

// superblock reads which filesystem is in an image, and of how many bytes; of a container, what
// that has in it takes the key. ErrCorrupt: there is neither, or not all of it.
func superblock(d fsctl.Disk) (fs string, size int64, err error) {
	_, is, err := crypt.Header(d)
	if err != nil {
		return "", 0, err
	}
	if is {
		have, err := d.Seek(0, io.SeekEnd)
		if err == nil && have <= crypt.Overhead {
			err = dataset.Errorf(dataset.ErrCorrupt,
				"it was cut off: the headers of its LUKS container take %s, and %s are there",
				dataset.Size(crypt.Overhead).Human(), dataset.Size(have).Human())
		}
		return luks, 0, err
	}
	fs, size, err = fsctl.Filesystem(d)
	if err != nil && fs == "" {
		if lost := crypt.FirstLost(d); lost != nil {
			err = lost
		}
	}
	return fs, size, err
}

// attachedBy is the error where nothing in this mount namespace has a head's device mounted, and it is
// in use. It names a process that has it mounted in another one, or has a file of it open.
func attachedBy(ctx context.Context, device string) error {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return dataset.Errorf(dataset.ErrInUse, "it is attached to %s, and by whom is not known: %w", device, err)
	}
	user, err := inuse.DeviceUser(ctx, int(unix.Major(st.Rdev)), int(unix.Minor(st.Rdev)))
	switch {
	case err != nil:
		return dataset.Errorf(dataset.ErrInUse, "it is attached to %s, and by whom is not known: %w", device, err)
	case user != "":
		return dataset.Errorf(dataset.ErrInUse, "it is in use: %s", user)
	}
	return dataset.Errorf(dataset.ErrInUse, "it is attached to %s", device)
}
