package btrfs

import (
	"context"
	"fmt"
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
)

// enforceAll sets the limit of each head to its size. A limit can differ because an operator switched quotas off and
// on, or because a crash happened before the limit was set. List reports a limit that cannot be set.
func (p *Pool) enforceAll() error {
	_, err := p.Shelf.List(func(f *shelf.Folder, _ *backends.Entry) {
		h, err := f.Head()
		if err != nil {
			return
		}
		dir, err := openSubvolume(f, h.Tree)
		if err != nil {
			return
		}
		defer dir.Close()
		if p.quota.Verify(dir, h.Size) != nil {
			_ = Limit(dir, h.Size)
		}
	})
	return err
}

// usedBy returns the usage of a tree, including blocks that it shares with others.
func (p *Pool) usedBy(ctx context.Context, f *shelf.Folder, name string) (dataset.Size, error) {
	dir, err := openSubvolume(f, name)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	return p.quota.Used(ctx, dir)
}

// Used implements backends.Pool.
func (p *Pool) Used(ctx context.Context, id uuid.UUID) (dataset.Size, error) {
	f, err := p.Shelf.FindDataset(id)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	h, err := f.Head()
	if err != nil {
		return 0, err
	}
	return p.usedBy(ctx, f, h.Tree)
}

// Resize implements backends.Resizer. A dataset can grow and shrink, but not below the usage that the quota has
// counted. Size 0 removes the limit.
func (p *sizedPool) Resize(_ context.Context, id uuid.UUID, size dataset.Size, _ *os.File) (err error) {
	defer backends.Wrap(&err, "resize dataset %s to %s", id, size)
	f, err := p.FindDataset(id)
	if err != nil {
		return err
	}
	defer f.Close()
	h, err := f.Head()
	if err != nil {
		return err
	}
	dir, err := openSubvolume(f, h.Tree)
	if err != nil {
		return err
	}
	defer dir.Close()
	if size != 0 {
		if err := p.checkSize(size); err != nil {
			return err
		}
	}
	if size != 0 && (h.Size == 0 || size < h.Size) {
		if err := fsctl.Sync(dir); err != nil { // so that the quota counts dirty data too
			return err
		}
		c, err := btrfsctl.Count(dir)
		if err != nil {
			return err
		}
		if used := dataset.Size(c.Referenced); used > size {
			return fmt.Errorf("%w (delete some of it first)", tooLargeError("it", used, size))
		}
	}
	if err := f.SetHead(shelf.Head{Tree: h.Tree, Size: size}); err != nil {
		return err
	}
	p.step("btrfs.resize.recorded")
	return Limit(dir, size) // if a power cut undoes it, opening the pool repeats it
}

// tooLargeError returns the error for something that does not fit into a size.
func tooLargeError(what string, used, size dataset.Size) error {
	return dataset.Errorf(dataset.ErrUnsupported, "%s contains %s, which is more than %s", what, used.Human(), size)
}

// minSize is the smallest size of a dataset. It leaves room for the metadata that btrfs reserves while it writes.
const minSize = 16 * dataset.MiB

// Compresses implements backends.Compressor.
func (p *Pool) Compresses() bool { return mount.Compresses(p.Shelf.Path()) }

// roomFor checks the room, as Room does, for a transfer that will write a number of bytes.
func (p *Pool) roomFor(remaining int64) error {
	return backends.CheckRoomFor(p.name, p.Shelf.Status, 0, remaining, func() error { return p.Within(fsctl.Sync) })
}

// checkSize fails with dataset.ErrUnsupported if no dataset of the pool can have this size.
func (p *Pool) checkSize(size dataset.Size) error {
	if err := p.CheckSize(size); err != nil {
		return err
	}
	return (*Backend)(nil).CheckSize("", size)
}
