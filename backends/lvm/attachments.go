package lvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/crypt"
	"github.com/droverhq/drover/internal/linux/dm"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/linux/mount"
)

// Attach implements backends.Pool.
func (p *Pool) Attach(ctx context.Context, id uuid.UUID, opts backends.AttachOptions) (backends.Attachment, error) {
	release := p.attached.Add(id)
	v, err := p.inspect(ctx, id)
	if err != nil {
		release()
		return backends.Attachment{}, fmt.Errorf("attach dataset %s: %w", id, err)
	}
	end := sync.OnceValue(func() error {
		defer release()
		return v.close()
	})
	return backends.Attachment{Release: end, Mount: backends.Mount{
		Source:  v.node,
		FSType:  v.fsType,
		Options: mkfs.MountOptions(v.fsType, opts.Mount),
		// A device node in a volume must not give access to a disk of the host.
		Flags: backends.MountFlags{ReadOnly: opts.ReadOnly, NoDev: true},
		Grow:  v.inner-v.fsSize > mkfs.GrowSlack && !opts.ReadOnly,
	}}, nil
}

// active is a head whose volume is active, so that its device and content can be read.
type active struct {
	node, disk          string // the mounted device, and the volume's own device
	fsType              string
	fsSize, inner, size int64 // bytes of the filesystem, of the mounted device, and of the volume

	open *crypt.Device // the container on the volume; nil if it has none
	key  []byte
}

// inspect activates the volume of a head, opens its container if it is encrypted, and reads the sizes of its parts. If
// inspect succeeds, the caller must close the result.
func (p *Pool) inspect(ctx context.Context, id uuid.UUID) (active, error) {
	f, err := p.Shelf.FindDataset(id)
	if err != nil {
		return active{}, err
	}
	defer f.Close()
	name, err := headOf(f)
	if err != nil {
		return active{}, err
	}
	dev, err := p.activate(ctx, name)
	if err != nil {
		return active{}, err
	}
	node, err := p.nodeOf(ctx, dev)
	if err != nil {
		return active{}, err
	}
	file, err := os.Open(node)
	if err != nil {
		return active{}, err
	}
	defer file.Close()
	v := active{node: node, disk: node}
	if v.size, err = file.Seek(0, 2); err != nil {
		return v, err
	}
	var fs fsctl.Disk = file
	v.inner = v.size
	if v.open, v.key, err = p.openContainer(ctx, f, name, file); err != nil {
		return v, err
	}
	if v.open != nil {
		fs, v.node = v.open, v.open.Path()
		v.inner, err = v.open.Size()
	}
	if err == nil {
		v.fsType, v.fsSize, err = fsctl.Filesystem(fs)
	}
	if errors.Is(err, dataset.ErrCorrupt) {
		err = fmt.Errorf("volume %s: %w", p.ref(name), err)
	}
	if err != nil {
		err = errors.Join(err, v.close())
	}
	return v, err
}

// A device can stay open for a moment after its use: a process that was just forked has a copy of our open files until
// it calls exec, and udev reads a device after the device was closed.
const (
	busyTries = 40
	busyPause = 25 * time.Millisecond
)

// CheckIdle implements backends.IdleChecker. It waits up to a second for an open device. A dataset that is absent or
// incomplete is not in use.
func (p *Pool) CheckIdle(ctx context.Context, id uuid.UUID) error {
	f, err := p.Shelf.FindDataset(id)
	if errors.Is(err, dataset.ErrNotFound) {
		return nil // the dataset is incomplete
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return p.checkFolderIdle(ctx, f)
}

// checkFolderIdle is CheckIdle with the open folder of the dataset. Package shelf calls it too, while it has claimed
// the dataset.
func (p *Pool) checkFolderIdle(ctx context.Context, f *shelf.Folder) error {
	id := f.ID
	if err := p.attached.CheckNone(id); err != nil {
		return err
	}
	if complete, err := f.Has(shelf.RecordFile); !complete || err != nil {
		return err
	}
	name, err := headOf(f)
	if err != nil {
		return err
	}
	dev, err := dm.Find(p.device(name))
	seen := dev
	for try := 0; err == nil && dev.Open > 0 && try < busyTries && ctx.Err() == nil; try++ {
		if seen, err = p.mountedDevice(name, dev); err != nil {
			break
		}
		if mountPoint := mountedAt(seen); mountPoint != "" {
			return dataset.Errorf(dataset.ErrInUse, "dataset %s: %w", id, inuse.PathUser(mountPoint))
		}
		<-time.After(busyPause)
		dev, err = dm.Find(p.device(name))
	}
	switch {
	case errors.Is(err, dm.ErrAbsent):
		return nil // not active
	case err != nil:
		return fmt.Errorf("check whether dataset %s is in use: %w", id, err)
	case dev.Open > 0:
		return dataset.Errorf(dataset.ErrInUse, "dataset %s is in use: %w", id, userOf(ctx, seen))
	}
	return nil
}

// mountedAt returns where a device is mounted in this mount namespace, or "" if it is not mounted there.
func mountedAt(dev dm.Device) string {
	table, err := mount.Table()
	if err != nil {
		return ""
	}
	for _, m := range table.Of(int(dev.Major), int(dev.Minor)) {
		return m.Mountpoint
	}
	return ""
}

// userOf returns an error that describes a process that uses a device that is not mounted here.
func userOf(ctx context.Context, dev dm.Device) error {
	user, _, err := inuse.FindUser(ctx, int(dev.Major), int(dev.Minor), "")
	switch {
	case err != nil:
		return fmt.Errorf("%s is open, and its users are unknown: %w", dev.Node(), err)
	case user != nil:
		return user
	}
	return fmt.Errorf("%s is open (fuser -v %s shows the users)", dev.Node(), dev.Node())
}

// Resize implements backends.Resizer. It extends the volume first, and then its filesystem. An unmounted filesystem is
// extended at its next mount. Resize refuses a size as a shrink if the volume is more than 1/32 larger than the size
// needs.
func (p *Pool) Resize(ctx context.Context, id uuid.UUID, want dataset.Size, root *os.File) (err error) {
	defer backends.Wrap(&err, "resize dataset %s to %s", id, want)
	v, err := p.inspect(ctx, id)
	if err != nil {
		return err
	}
	defer v.close() //nolint:errcheck // it was only read
	if err := mkfs.CheckMax(want); err != nil {
		return err
	}
	// If the container was open already, openContainer did not verify the key.
	if v.open != nil {
		if err := crypt.New(p.runner).CheckKey(ctx, v.disk, v.key); err != nil {
			return err
		}
	}
	if slices.Contains(p.info.Capabilities.OfflineGrow, v.fsType) {
		return dataset.Errorf(dataset.ErrUnsupported, "%s cannot grow, because this process lacks CAP_SYS_RESOURCE",
			v.fsType)
	}
	f, err := p.Shelf.FindDataset(id)
	if err != nil {
		return err
	}
	defer f.Close()
	tree, l, err := headLink(f)
	if err != nil {
		return err
	}
	overhead := dataset.Size(0)
	if v.open != nil {
		overhead = crypt.Overhead
	}
	device, fits := dataset.Size(v.size), p.volumeFor(v.fsType, want, overhead)
	if want < l.Size || fits+fits/32 < device {
		return dataset.Errorf(dataset.ErrUnsupported, "it has %s, and %s cannot shrink here",
			max(l.Size, mkfs.Size(v.fsType, device-overhead)), v.fsType)
	}
	fits = max(fits, device)
	if err := p.extend(ctx, l.Volume, fits); err != nil {
		return err
	}
	p.step("lvm.resize.extended")
	l.Size, l.Filesystem = want, v.fsType
	if err := shelf.WriteJSON(f.Dir, tree, l, true); err != nil || root == nil {
		return err
	}
	inner, err := p.extendContainer(ctx, v, l.Volume, int64(fits))
	if err != nil {
		return err
	}
	return grow(root, v.fsType, inner)
}

// Grow implements backends.Resizer.
func (p *Pool) Grow(ctx context.Context, id uuid.UUID, root *os.File) (err error) {
	defer backends.Wrap(&err, "grow dataset %s", id)
	v, err := p.inspect(ctx, id)
	if err != nil {
		return err
	}
	return errors.Join(grow(root, v.fsType, v.inner), v.close())
}

func grow(root *os.File, fsType string, size int64) error {
	if err := fsctl.Grow(root, fsType, size); err != nil {
		return err
	}
	return fsctl.Sync(root)
}
