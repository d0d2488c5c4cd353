package zfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mkfs"
)

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
func (p *Pool) Create(ctx context.Context, d dataset.Dataset) (_ dataset.Size, err error) {
	defer backends.Wrap(&err, "create dataset %s", d.ID)
	size := cmp.Or(d.Size, defaultSize)
	return p.make(ctx, d, func() (dataset.Size, func(fs string) error, error) {
		if err := (*Backend)(nil).CheckSize("", size); err != nil {
			return 0, nil, err
		}
		var key []byte
		if d.Encryption != nil {
			var err error
			if key, err = p.dataKey(ctx, d); err != nil {
				return 0, nil, err
			}
		}
		return size, func(fs string) error {
			if err := p.makeRoot(ctx, d, key); err != nil {
				return err
			}
			if key != nil {
				defer p.holdKey(p.root(d.ID))()
			}
			if err := p.tool.zfs(ctx, append(append([]string{"create"}, headOptions(size)...), fs)...); err != nil {
				return err
			}
			return p.setOwner(ctx, d, fs, size)
		}, nil
	})
}

// headOptions returns the properties with which every head is made. zfs create and zfs clone set them atomically.
func headOptions(size dataset.Size) []string {
	return []string{"-o", "mountpoint=legacy", "-o", "canmount=noauto", "-o", "refquota=" + bytesText(size)}
}

func bytesText(size dataset.Size) string { return strconv.FormatInt(int64(size), 10) }

// Clone implements backends.Pool. The root directory keeps the owner and mode of the source.
func (p *Pool) Clone(ctx context.Context, d dataset.Dataset, src dataset.Source, _ backends.Progress) (
	_ dataset.Size, err error) {
	defer backends.Wrap(&err, "clone dataset %s", src.Dataset)
	return p.make(ctx, d, func() (dataset.Size, func(fs string) error, error) { return p.copyOf(ctx, d, src) })
}

// copyOf is the plan function of a clone: it checks the source, and returns the size of the clone and the function that
// makes its head.
func (p *Pool) copyOf(ctx context.Context, d dataset.Dataset, src dataset.Source) (dataset.Size,
	func(fs string) error, error) {
	from, err := p.sourceFolder(src)
	if err != nil {
		return 0, nil, err
	}
	defer from.Close()
	if err := p.sameKey(ctx, p.root(src.Dataset), d); err != nil {
		return 0, nil, err
	}
	origin, size := "", dataset.Size(0)
	if src.Snapshot != uuid.Nil {
		s, err := readSnapshot(from, src.Snapshot)
		if err != nil {
			return 0, nil, err
		}
		origin, size = p.snapshotName(src.Dataset, s.FS, src.Snapshot), s.Refquota
	} else {
		head, err := p.headOf(ctx, from)
		if err != nil {
			return 0, nil, err
		}
		origin, size = head.name+"@"+clonePrefix+d.ID.String(), head.refquota
	}
	size = max(size, d.Size)
	return size, func(fs string) error {
		if err := p.makeRoot(ctx, d, nil); err != nil {
			return err
		}
		return p.clone(ctx, src, origin, fs, size)
	}, nil
}

// sourceFolder opens the folder of the dataset that is cloned. If a snapshot is cloned, the dataset may be a copy.
func (p *Pool) sourceFolder(src dataset.Source) (*shelf.Folder, error) {
	if src.Snapshot != uuid.Nil {
		return p.Shelf.FindDatasetOrCopy(src.Dataset)
	}
	return p.Shelf.FindDataset(src.Dataset)
}

// clone makes the filesystem fs from the snapshot origin. If src names a head, clone takes the snapshot origin first.
// No record names that snapshot, but Reap leaves it alone because the folder of the source is open.
func (p *Pool) clone(ctx context.Context, src dataset.Source, origin, fs string, size dataset.Size) error {
	from, err := p.sourceFolder(src)
	if err != nil {
		return err
	}
	defer from.Close()
	if src.Snapshot == uuid.Nil {
		take := func() error { return p.retakeSnapshot(ctx, origin) }
		if _, err := backends.Frozen(ctx, take); err != nil {
			return err
		}
	}
	err = p.tool.zfs(ctx, append(append([]string{"clone"}, headOptions(size)...), origin, fs)...)
	if err != nil && src.Snapshot == uuid.Nil {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
		defer cancel()
		_ = p.tool.zfs(after, "destroy", origin) // if this fails, Reap destroys it
	}
	return err
}

// plan checks a request. It returns the size of the new dataset, and the function that makes its head. Only that
// function makes anything.
type plan func() (dataset.Size, func(fs string) error, error)

// make makes a dataset: in this order its folder, its filesystem, its head and its record. If the filesystem or the
// head cannot be made, make removes the folder and the filesystem. Idempotent: if the dataset is complete, make returns
// its size.
func (p *Pool) make(ctx context.Context, d dataset.Dataset, plan plan) (dataset.Size, error) {
	if err := p.checkRequest(d); err != nil {
		return 0, err
	}
	size, complete, err := p.finishExisting(ctx, d)
	if complete || err != nil {
		return size, err
	}
	size, fill, err := plan()
	if err != nil {
		return 0, err
	}
	if err := p.room(); err != nil {
		return 0, err
	}
	if err := p.vacate(ctx, d.ID); err != nil {
		return 0, err
	}
	f, _, err := p.Shelf.Make(d.ID)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := fill(p.root(d.ID) + "/" + firstHead); err != nil {
		return 0, noSpace(p.discard(ctx, d.ID, err))
	}
	return size, p.Shelf.Finish(f, d)
}

// finishExisting completes make for a dataset that an earlier attempt made. It returns false if there is no such
// dataset.
func (p *Pool) finishExisting(ctx context.Context, d dataset.Dataset) (dataset.Size, bool, error) {
	f, err := p.Shelf.FindDataset(d.ID)
	if errors.Is(err, dataset.ErrNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	head, err := p.headOf(ctx, f)
	if err != nil {
		return 0, false, err
	}
	if err := p.sameKey(ctx, head.name, d); err != nil {
		return 0, false, dataset.Errorf(dataset.ErrExists, "it exists from an earlier attempt: %w", err)
	}
	return head.refquota, true, p.Shelf.Finish(f, d)
}

// vacate removes what remains of an earlier attempt, or of a deleted dataset with the same ID. If the filesystem of the
// dataset still exists after that, Drover did not make it, and vacate returns dataset.ErrExists.
func (p *Pool) vacate(ctx context.Context, id uuid.UUID) error {
	if err := p.Shelf.Delete(ctx, id); err != nil {
		return err
	}
	switch _, err := p.tool.object(ctx, p.root(id)); {
	case err == nil:
		return dataset.Errorf(dataset.ErrExists,
			"%s exists, but no record of a dataset: it is not changed", p.root(id))
	case !errors.Is(err, errAbsent):
		return err
	}
	return nil
}

// discard removes a dataset that could not be made. It removes the folder last. It returns cause. If the removal fails,
// it adds the error of the removal.
func (p *Pool) discard(ctx context.Context, id uuid.UUID, cause error) error {
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
	defer cancel()
	err := p.removeObjects(after, id)
	if err == nil {
		err = p.Shelf.Discard(id)
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
func (p *Pool) checkRequest(d dataset.Dataset) error {
	if d.Encryption != nil && !p.encrypts() {
		return p.cannotEncrypt()
	}
	return shelf.CheckFilesystem(Name, d.Profile.Filesystem)
}

// setOwner sets the owner and mode of the root directory of a new head. ZFS makes the directory with owner root and
// mode 0755.
func (p *Pool) setOwner(ctx context.Context, d dataset.Dataset, fs string, size dataset.Size) error {
	owner := d.Profile.Owner
	if owner == nil || owner.UID == 0 && owner.GID == 0 && (owner.Mode == nil || *owner.Mode == mkfs.RootMode) {
		return nil
	}
	root, err := p.openHead(ctx, d.ID, fs)
	if err != nil {
		return err
	}
	if err := errors.Join(mkfs.SetOwner(root, owner), root.Close()); err != nil {
		return err
	}
	// zfs set returns when the transaction group is on the disk. So it also makes the owner and mode durable.
	return p.tool.zfs(ctx, "set", "refquota="+bytesText(size), fs)
}

// Resize implements backends.Resizer. It fails with dataset.ErrUnsupported if the size is less than the usage of the
// dataset or less than minSize.
func (p *Pool) Resize(ctx context.Context, id uuid.UUID, size dataset.Size, _ *os.File) (err error) {
	defer backends.Wrap(&err, "resize dataset %s to %s", id, size)
	f, err := p.FindDataset(id)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := p.settle(ctx); err != nil { // so that the usage of the head includes all earlier writes
		return err
	}
	head, err := p.headOf(ctx, f)
	if err != nil {
		return err
	}
	if minimum := max(minSize, head.referenced); size < minimum {
		return dataset.Errorf(dataset.ErrUnsupported, "it contains %s, and the minimum is %s",
			head.referenced.Human(), minimum.Human())
	}
	return noSpace(p.tool.zfs(ctx, "set", "refquota="+bytesText(size), head.name))
}
