package btrfs

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/tree"
)

// limit makes a subvolume hold at most so much, or with 0 takes its limit away.
func limit(dir *os.File, size dataset.Size) error {
	err := btrfsctl.Limit(dir, uint64(size))
	off := errors.Is(err, unix.ENOTCONN) || errors.Is(err, os.ErrNotExist)
	switch {
	case off && size == 0:
		return nil // there is none, as quotas are off or have not come to it
	case off:
		return dataset.Errorf(dataset.ErrUnsupported,
			"quotas were switched off: no size can be given (btrfs quota enable): %w", err)
	}
	return err
}

// limitAll sets the limit of each head to its size, if it differs: an operator may have switched quotas off
// and on, or a crash may have come before the limit was set. What cannot be given now the list says.
func (p *Pool) limitAll() error {
	_, err := p.shelf.List(func(f *shelf.Folder, _ *backends.Entry) {
		h, err := f.Head()
		if err != nil {
			return
		}
		dir, err := open(f, h.Tree)
		if err != nil {
			return
		}
		defer dir.Close()
		if p.misses(dir, h.Size) != nil {
			_ = limit(dir, h.Size)
		}
	})
	return err
}

// misses fails when a head's limit is not its size.
func (p *Pool) misses(dir *os.File, size dataset.Size) error {
	if p.quota == btrfsctl.QuotaNone {
		return nil
	}
	c, err := btrfsctl.Count(dir)
	switch have := dataset.Size(c.Limit); {
	case errors.Is(err, os.ErrNotExist):
		return nil // quotas are off since: the status says so
	case err != nil:
		return err
	case have != size:
		return fmt.Errorf("the limit of its subvolume is %s and its size %s, with 0B for none: restart drover",
			have, size)
	}
	return nil
}

// Used implements backends.Pool: full quotas know, otherwise it walks the tree.
func (p *Pool) Used(ctx context.Context, id uuid.UUID) (dataset.Size, error) {
	f, err := p.shelf.Find(id)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	h, err := f.Head()
	if err != nil {
		return 0, err
	}
	return p.used(ctx, f, h.Tree)
}

// used returns the usage of a tree, including blocks that it shares with others.
func (p *Pool) used(ctx context.Context, f *shelf.Folder, name string) (dataset.Size, error) {
	dir, err := open(f, name)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	if p.quota == btrfsctl.QuotaFull {
		c, err := btrfsctl.Count(dir)
		if !errors.Is(err, os.ErrNotExist) { // quotas are off since
			return dataset.Size(c.Referenced), err
		}
	}
	size, err := tree.Usage(ctx, dir)
	return dataset.Size(size.Bytes), err
}

// Resize implements backends.Resizer: larger or smaller, but not below the counted usage. 0 removes the limit.
func (p *sizedPool) Resize(_ context.Context, id uuid.UUID, size dataset.Size, _ *os.File) error {
	f, err := p.shelf.Find(id)
	if err != nil {
		return err
	}
	defer f.Close()
	h, err := f.Head()
	if err == nil {
		err = p.resize(f, h, size)
	}
	if err != nil {
		return fmt.Errorf("resize dataset %s to %s: %w", id, size, err)
	}
	return nil
}

func (p *sizedPool) resize(f *shelf.Folder, h shelf.Head, size dataset.Size) error {
	dir, err := open(f, h.Tree)
	if err != nil {
		return err
	}
	defer dir.Close()
	if size != 0 {
		if err := p.fits(size); err != nil {
			return err
		}
	}
	if size != 0 && (h.Size == 0 || size < h.Size) {
		if err := fsctl.Sync(dir); err != nil { // dirty data is counted then
			return err
		}
		c, err := btrfsctl.Count(dir)
		if err != nil {
			return err
		}
		if used := dataset.Size(c.Referenced); used > size {
			return fmt.Errorf("%w (delete some of it first)", over("it", used, size))
		}
	}
	if err := f.SetHead(shelf.Head{Tree: h.Tree, Size: size}); err != nil {
		return err
	}
	p.step("btrfs.resize.recorded")
	return limit(dir, size) // one that a power cut takes back is set when the pool is opened
}

// Grow implements backends.Resizer: there is nothing to do.
func (p *sizedPool) Grow(_ context.Context, id uuid.UUID, _ *os.File) error {
	f, err := p.shelf.Find(id)
	if err != nil {
		return err
	}
	return f.Close()
}
