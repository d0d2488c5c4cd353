package zfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
)

// maker makes datasets: empty ones and clones.
type maker struct {
	*storage
	keys        *datasetKeys
	attachments *attachments
	space       *space
	remover     *remover
	snapshotter *snapshotter
}

// cleanupLimit bounds the cleanup after a failed operation. Reap removes the remains of a cleanup that takes longer.
const cleanupLimit = 20 * time.Second

// MaxCapabilities implements backends.BoundedKind. OwnFilesystem is false because a pool with that capability must be
// able to freeze its datasets, and ZFS cannot be frozen. (df in a container shows the size of the dataset
// nevertheless.)
func (*Backend) MaxCapabilities() dataset.Capabilities {
	return dataset.Capabilities{
		EnforcesSize: true, InstantSnapshot: true, ConstantSnapshot: true, CloneIndependent: true,
		OnlineGrow: true, Shrink: true, KnowsUsed: true, Encryption: true, Delta: true,
	}
}

// CheckSize implements backends.BoundedKind.
func (*Backend) CheckSize(_ string, size dataset.Size) error {
	if size < minSize {
		return dataset.Errorf(dataset.ErrUnsupported, "%s is too small (at least %s)", size, minSize)
	}
	return nil
}

// Create implements backends.Pool.
func (p *Pool) Create(ctx context.Context, d dataset.Dataset) (dataset.Size, error) {
	size := d.Size
	if size == 0 {
		size = defaultSize
	}
	actual, err := p.maker.make(ctx, d, func() (dataset.Size, func(fs string) error, error) {
		if err := (*Backend)(nil).CheckSize("", size); err != nil {
			return 0, nil, err
		}
		var key []byte
		if d.Encryption != nil {
			var err error
			if key, err = p.keys.dataKey(ctx, d); err != nil {
				return 0, nil, err
			}
		}
		return size, func(fs string) error {
			if err := p.keys.makeRoot(ctx, d, key); err != nil {
				return err
			}
			if key != nil {
				defer p.keys.holdKey(p.root(d.ID))()
			}
			if err := p.tool.zfs(ctx, append(append([]string{"create"}, headOptions(size)...), fs)...); err != nil {
				return err
			}
			return p.maker.setOwner(ctx, d, fs, size)
		}, nil
	})
	if err != nil {
		return 0, fmt.Errorf("create dataset %s: %w", d.ID, err)
	}
	return actual, nil
}

// headOptions returns the properties with which every head is made. zfs create and zfs clone set them atomically.
func headOptions(size dataset.Size) []string {
	return []string{"-o", "mountpoint=legacy", "-o", "canmount=noauto", "-o", "refquota=" + bytesText(size)}
}

func bytesText(size dataset.Size) string { return strconv.FormatInt(int64(size), 10) }

// Clone implements backends.Pool. The root directory keeps the owner and mode of the source.
func (p *Pool) Clone(ctx context.Context, d dataset.Dataset, src dataset.Source, _ backends.Progress) (dataset.Size,
	error) {
	size, err := p.maker.make(ctx, d, func() (dataset.Size, func(fs string) error, error) {
		return p.maker.copyOf(ctx, d, src)
	})
	if err != nil {
		return 0, fmt.Errorf("clone dataset %s: %w", src.Dataset, err)
	}
	return size, nil
}

// copyOf is the plan function of a clone: it checks the source, and returns the size of the clone and the function that
// makes its head.
func (m *maker) copyOf(ctx context.Context, d dataset.Dataset, src dataset.Source) (dataset.Size,
	func(fs string) error, error) {
	from, err := m.source(src)
	if err != nil {
		return 0, nil, err
	}
	defer from.Close()
	if err := m.keys.sameKey(ctx, m.root(src.Dataset), d); err != nil {
		return 0, nil, err
	}
	origin, size := "", dataset.Size(0)
	if src.Snapshot != uuid.Nil {
		s, err := readSnapshot(from, src.Snapshot)
		if err != nil {
			return 0, nil, err
		}
		origin, size = m.snapshotName(src.Dataset, s.FS, src.Snapshot), s.Refquota
	} else {
		head, err := m.headOf(ctx, from)
		if err != nil {
			return 0, nil, err
		}
		origin, size = head.name+"@"+clonePrefix+d.ID.String(), head.refquota
	}
	size = max(size, d.Size)
	return size, func(fs string) error {
		if err := m.keys.makeRoot(ctx, d, nil); err != nil {
			return err
		}
		return m.clone(ctx, src, origin, fs, size)
	}, nil
}

// source opens the folder of the dataset that is cloned. If a snapshot is cloned, the dataset may be a copy.
func (m *maker) source(src dataset.Source) (*shelf.Folder, error) {
	if src.Snapshot != uuid.Nil {
		return m.shelf.FindDatasetOrCopy(src.Dataset)
	}
	return m.shelf.FindDataset(src.Dataset)
}

// clone makes the filesystem fs from the snapshot origin. If src names a head, clone takes the snapshot origin first.
// No record names that snapshot, but Reap leaves it alone because the folder of the source is open.
func (m *maker) clone(ctx context.Context, src dataset.Source, origin, fs string, size dataset.Size) error {
	from, err := m.source(src)
	if err != nil {
		return err
	}
	defer from.Close()
	if src.Snapshot == uuid.Nil {
		take := func() error { return m.snapshotter.retakeSnapshot(ctx, origin) }
		if _, err := backends.Frozen(ctx, take); err != nil {
			return err
		}
	}
	err = m.tool.zfs(ctx, append(append([]string{"clone"}, headOptions(size)...), origin, fs)...)
	if err != nil && src.Snapshot == uuid.Nil {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
		defer cancel()
		_ = m.tool.zfs(after, "destroy", origin) // if this fails, Reap destroys it
	}
	return err
}

// plan checks a request. It returns the size of the new dataset, and the function that makes its head. Only that
// function makes anything.
type plan func() (dataset.Size, func(fs string) error, error)

// make makes a dataset: in this order its folder, its filesystem, its head and its record. If the filesystem or the
// head cannot be made, make removes the folder and the filesystem. Idempotent: if the dataset is complete, make returns
// its size.
func (m *maker) make(ctx context.Context, d dataset.Dataset, plan plan) (dataset.Size, error) {
	if err := m.checkRequest(d); err != nil {
		return 0, err
	}
	size, complete, err := m.finishExisting(ctx, d)
	if complete || err != nil {
		return size, err
	}
	size, fill, err := plan()
	if err != nil {
		return 0, err
	}
	if err := m.space.room(); err != nil {
		return 0, err
	}
	if err := m.vacate(ctx, d.ID); err != nil {
		return 0, err
	}
	f, _, err := m.shelf.Make(d.ID)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := fill(m.root(d.ID) + "/" + firstHead); err != nil {
		return 0, noSpace(m.discard(ctx, d.ID, err))
	}
	return size, m.shelf.Finish(f, d)
}

// finishExisting completes make for a dataset that an earlier attempt made. It returns false if there is no such
// dataset.
func (m *maker) finishExisting(ctx context.Context, d dataset.Dataset) (dataset.Size, bool, error) {
	f, err := m.shelf.FindDataset(d.ID)
	if errors.Is(err, dataset.ErrNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	head, err := m.headOf(ctx, f)
	if err != nil {
		return 0, false, err
	}
	if err := m.keys.sameKey(ctx, head.name, d); err != nil {
		return 0, false, dataset.Errorf(dataset.ErrExists, "it exists from an earlier attempt: %w", err)
	}
	return head.refquota, true, m.shelf.Finish(f, d)
}

// vacate removes what remains of an earlier attempt, or of a deleted dataset with the same ID. If the filesystem of the
// dataset still exists after that, Drover did not make it, and vacate returns dataset.ErrExists.
func (m *maker) vacate(ctx context.Context, id uuid.UUID) error {
	if err := m.shelf.Delete(ctx, id); err != nil {
		return err
	}
	switch _, err := m.tool.object(ctx, m.root(id)); {
	case err == nil:
		return dataset.Errorf(dataset.ErrExists,
			"%s exists, but no record of a dataset: it is not changed", m.root(id))
	case !errors.Is(err, errAbsent):
		return err
	}
	return nil
}

// discard removes a dataset that could not be made. It removes the folder last. It returns cause. If the removal fails,
// it adds the error of the removal.
func (m *maker) discard(ctx context.Context, id uuid.UUID, cause error) error {
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
	defer cancel()
	err := m.remover.removeObjects(after, id)
	if err == nil {
		err = m.shelf.Discard(id)
	}
	if err != nil {
		return fmt.Errorf("%w (and the partial result stays: %v)", cause, err)
	}
	return cause
}

// noSpace returns err as dataset.ErrNoSpace if zfs ran out of space or quota. It returns all other errors unchanged.
func noSpace(err error) error {
	if errors.Is(err, errSpace) {
		return dataset.Errorf(dataset.ErrNoSpace, "%w", err)
	}
	return err
}

// checkRequest returns dataset.ErrUnsupported if a request has a property that a ZFS pool cannot provide.
func (m *maker) checkRequest(d dataset.Dataset) error {
	fs := d.Profile.Filesystem
	switch {
	case d.Encryption != nil && !m.keys.encrypts():
		return m.keys.cannotEncrypt()
	case fs.Type != "":
		return dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend zfs has a fixed filesystem (requested: %s): omit it, or use a pool of backend "+
				"loop", fs.Type)
	case len(fs.Mount) > 0:
		return dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend zfs has no mount options (requested: %s): omit them, or use a pool of backend "+
				"loop", dataset.FormatChoices(fs.Mount))
	}
	return nil
}

// setOwner sets the owner and mode of the root directory of a new head. ZFS makes the directory with owner root and
// mode 0755.
func (m *maker) setOwner(ctx context.Context, d dataset.Dataset, fs string, size dataset.Size) error {
	var owner dataset.Owner
	if d.Profile.Owner != nil {
		owner = *d.Profile.Owner
	}
	mode := uint32(0o755)
	if owner.Mode != nil {
		mode = *owner.Mode
	}
	if owner.UID == 0 && owner.GID == 0 && mode == 0o755 {
		return nil
	}
	root, err := m.attachments.open(ctx, d.ID, fs)
	if err != nil {
		return err
	}
	err = errors.Join(setOwner(root, owner, mode), root.Close())
	if err != nil {
		return err
	}
	// zfs set returns when the transaction group is on the disk. So it also makes the owner and mode durable.
	return m.tool.zfs(ctx, "set", "refquota="+bytesText(size), fs)
}

func setOwner(root *os.File, owner dataset.Owner, mode uint32) error {
	if err := root.Chown(int(owner.UID), int(owner.GID)); err != nil {
		return err
	}
	return unix.Fchmod(int(root.Fd()), mode)
}

// settledHead waits until the usage of the head includes all earlier writes, and returns the head.
func (m *maker) settledHead(ctx context.Context, f *shelf.Folder) (object, error) {
	if err := m.space.settle(ctx); err != nil {
		return object{}, err
	}
	return m.headOf(ctx, f)
}

// Resize implements backends.Resizer. It fails with dataset.ErrUnsupported if the size is less than the usage of the
// dataset or less than minSize.
func (p *Pool) Resize(ctx context.Context, id uuid.UUID, size dataset.Size, _ *os.File) error {
	f, err := p.shelf.FindDataset(id)
	if err != nil {
		return err
	}
	defer f.Close()
	head, err := p.maker.settledHead(ctx, f)
	if err != nil {
		return fmt.Errorf("resize dataset %s: %w", id, err)
	}
	if minimum := max(minSize, head.referenced); size < minimum {
		return dataset.Errorf(dataset.ErrUnsupported, "resize dataset %s to %s: it contains %s, and the minimum is %s",
			id, size, head.referenced.Human(), minimum.Human())
	}
	if err := p.tool.zfs(ctx, "set", "refquota="+bytesText(size), head.name); err != nil {
		return fmt.Errorf("resize dataset %s to %s: %w", id, size, noSpace(err))
	}
	return nil
}

// Grow implements backends.Resizer. It has nothing to do, because Resize does not need the filesystem mounted.
func (p *Pool) Grow(_ context.Context, id uuid.UUID, _ *os.File) error {
	f, err := p.shelf.FindDataset(id)
	if err != nil {
		return err
	}
	return f.Close()
}
