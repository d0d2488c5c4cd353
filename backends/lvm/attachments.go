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

// attachments attaches datasets, and counts the attachments that were not released.
type attachments struct {
	*storage
	volumes    *volumes
	encryption *encryption
	attached   backends.Attachments
}

// Attach implements backends.Pool.
func (p *Pool) Attach(ctx context.Context, id uuid.UUID, opts backends.AttachOptions) (backends.Attachment, error) {
	release := p.attachments.attached.Add(id)
	a, err := p.attachments.attach(ctx, id, opts)
	if err != nil {
		release()
		return a, fmt.Errorf("attach dataset %s: %w", id, err)
	}
	var once sync.Once
	end := a.Release
	a.Release = func() (err error) {
		once.Do(func() {
			err = end()
			release()
		})
		return err
	}
	return a, nil
}

func (a *attachments) attach(ctx context.Context, id uuid.UUID, opts backends.AttachOptions) (
	backends.Attachment, error,
) {
	v, err := a.inspect(ctx, id)
	if err != nil {
		return backends.Attachment{}, err
	}
	return backends.Attachment{Release: v.close, Mount: backends.Mount{
		Source:  v.node,
		FSType:  v.fsType,
		Options: mountOptions(v.fsType, opts.Mount),
		// A device node in a volume must not give access to a disk of the host.
		Flags: backends.MountFlags{ReadOnly: opts.ReadOnly, NoDev: true},
		Grow:  v.inner-v.fsSize > growSlack && !opts.ReadOnly,
	}}, nil
}

// growSlack is the largest difference in bytes between a volume and its filesystem for which the filesystem is not
// grown. mkfs leaves out a last group that would be too small.
const growSlack = 16 << 20

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
func (a *attachments) inspect(ctx context.Context, id uuid.UUID) (active, error) {
	f, err := a.shelf.FindDataset(id)
	if err != nil {
		return active{}, err
	}
	defer f.Close()
	name, err := headOf(f)
	if err != nil {
		return active{}, err
	}
	dev, err := a.volumes.activate(ctx, name)
	if err != nil {
		return active{}, err
	}
	node, err := a.volumes.node(ctx, dev)
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
	if v.open, v.key, err = a.encryption.openContainer(ctx, f, name, file); err != nil {
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
		err = fmt.Errorf("volume %s: %w", a.ref(name), err)
	}
	if err != nil {
		err = errors.Join(err, v.close())
	}
	return v, err
}

// mountOptions returns the mount options that volumes need, followed by those of the profile.
func mountOptions(fsType string, more []string) []string {
	var opts []string
	if fsType == xfs {
		opts = append(opts, "nouuid") // a clone has the UUID of its source
	}
	// The blocks of deleted files are returned to the pool.
	if !slices.Contains(more, "nodiscard") && !slices.Contains(more, "discard") {
		opts = append(opts, "discard")
	}
	return append(opts, more...)
}

// A device can stay open for a moment after its use: a process that was just forked has a copy of our open files until
// it calls exec, and udev reads a device after the device was closed.
const (
	busyTries = 40
	busyPause = 25 * time.Millisecond
)

// CheckIdle implements backends.IdleChecker.
func (p *Pool) CheckIdle(ctx context.Context, id uuid.UUID) error {
	return p.attachments.checkIdle(ctx, id)
}

// checkIdle fails with dataset.ErrInUse if a dataset is attached, or if its device is open or mounted in any mount
// namespace. It waits up to a second for an open device. A dataset that is absent or incomplete is not in use.
func (a *attachments) checkIdle(ctx context.Context, id uuid.UUID) error {
	f, err := a.shelf.FindDataset(id)
	if errors.Is(err, dataset.ErrNotFound) {
		return nil // the dataset is incomplete
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return a.checkFolderIdle(ctx, f)
}

// checkFolderIdle is checkIdle with the open folder of the dataset. It takes no lock of the dataset.
func (a *attachments) checkFolderIdle(ctx context.Context, f *shelf.Folder) error {
	id := f.ID
	if err := a.attached.CheckNone(id); err != nil {
		return err
	}
	if complete, err := f.Has(shelf.RecordFile); !complete || err != nil {
		return err
	}
	name, err := headOf(f)
	if err != nil {
		return err
	}
	dev, err := dm.Find(a.device(name))
	seen := dev
	for try := 0; err == nil && dev.Open > 0 && try < busyTries && ctx.Err() == nil; try++ {
		if seen, err = a.encryption.mountedDevice(name, dev); err != nil {
			break
		}
		if mountPoint := mountedAt(seen); mountPoint != "" {
			return dataset.Errorf(dataset.ErrInUse, "dataset %s: %w", id, inuse.PathUser(mountPoint))
		}
		<-time.After(busyPause)
		dev, err = dm.Find(a.device(name))
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

// offlineGrow returns those of the filesystems that cannot grow while they are mounted. Drover does not grow them at
// all.
func offlineGrow(filesystems []string) ([]string, error) {
	if !slices.Contains(filesystems, ext4) {
		return nil, nil
	}
	if grows, err := fsctl.CanGrowExt4(); err != nil || grows {
		return nil, err
	}
	return []string{ext4}, nil
}

// Resize implements backends.Resizer. It extends the volume first, and then its filesystem. An unmounted filesystem is
// extended at its next mount. Resize refuses a size as a shrink if the volume is more than 1/32 larger than the size
// needs.
func (p *Pool) Resize(ctx context.Context, id uuid.UUID, size dataset.Size, root *os.File) error {
	if err := p.resize(ctx, id, size, root); err != nil {
		return fmt.Errorf("resize dataset %s to %s: %w", id, size, err)
	}
	return nil
}

func (p *Pool) resize(ctx context.Context, id uuid.UUID, want dataset.Size, root *os.File) error {
	v, err := p.attachments.inspect(ctx, id)
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
	f, err := p.shelf.FindDataset(id)
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
	device, fits := dataset.Size(v.size), p.maker.volumeFor(v.fsType, want, overhead)
	if want < l.Size || fits+fits/32 < device {
		return dataset.Errorf(dataset.ErrUnsupported, "it has %s, and %s cannot shrink here",
			max(l.Size, mkfs.Size(v.fsType, device-overhead)), v.fsType)
	}
	fits = max(fits, device)
	if err := p.maker.extend(ctx, l.Volume, fits); err != nil {
		return err
	}
	p.step("lvm.resize.extended")
	l.Size, l.Filesystem = want, v.fsType
	if err := shelf.WriteJSON(f.Dir, tree, l, true); err != nil || root == nil {
		return err
	}
	inner, err := p.encryption.extendContainer(ctx, v, l.Volume, int64(fits))
	if err != nil {
		return err
	}
	return grow(root, v.fsType, inner)
}

// Grow implements backends.Resizer.
func (p *Pool) Grow(ctx context.Context, id uuid.UUID, root *os.File) error {
	v, err := p.attachments.inspect(ctx, id)
	if err == nil {
		err = errors.Join(grow(root, v.fsType, v.inner), v.close())
	}
	if err != nil {
		return fmt.Errorf("grow dataset %s: %w", id, err)
	}
	return nil
}

func grow(root *os.File, fsType string, size int64) error {
	grow := fsctl.GrowExt4
	if fsType == xfs {
		grow = fsctl.GrowXFS
	}
	if err := grow(root, size); err != nil {
		return err
	}
	return fsctl.Sync(root)
}
