package dir

import (
	"context"
	"fmt"

	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree"
)

// Create implements backends.Pool. The size that it returns is 0: no limit.
func (p *Pool) Create(_ context.Context, d dataset.Dataset) (dataset.Size, error) {
	return 0, p.make(d, func(f *shelf.Folder) error { return makeRoot(f, d.Profile.Owner) })
}

// Clone implements backends.Pool. The root keeps the owner and mode of the
// source's.
func (p *Pool) Clone(ctx context.Context, d dataset.Dataset, src dataset.Source, progress backends.Progress) (dataset.Size, error) {
	return 0, p.make(d, func(f *shelf.Folder) error {
		from, err := p.shelf.Find(src.Dataset)
		if err != nil {
			return err
		}
		defer from.Close()
		name, err := p.source(from, src)
		if err != nil {
			return err
		}
		return p.copyTree(ctx, from, name, f, shelf.FirstHead, progress)
	})
}

// source returns the tree that src names. A head must not be in use.
func (p *Pool) source(f *shelf.Folder, src dataset.Source) (string, error) {
	if src.Snapshot != uuid.Nil {
		s, err := f.Kept(src.Snapshot)
		return s.Tree, err
	}
	if err := p.idle(f, "copied"); err != nil {
		return "", err
	}
	h, err := f.Head()
	return h.Tree, err
}

// make makes a dataset whose tree fill puts into its folder. What fails is
// taken back.
func (p *Pool) make(d dataset.Dataset, fill func(*shelf.Folder) error) error {
	if err := refuse(d); err != nil {
		return err
	}
	f, whole, err := p.shelf.Make(d.ID)
	if err != nil {
		return err
	}
	defer f.Close()
	if whole {
		return p.shelf.Finish(f, d)
	}
	err = p.room()
	if err == nil {
		err = fill(f)
	}
	if err != nil {
		if dErr := p.shelf.Discard(d.ID); dErr != nil {
			return fmt.Errorf("%w (and what was made of it stays: %v)", err, dErr)
		}
		return err
	}
	return p.shelf.Finish(f, d)
}

// refuse refuses what a directory cannot keep.
func refuse(d dataset.Dataset) error {
	fs := d.Profile.Filesystem
	switch {
	case d.Size != 0:
		return dataset.Errorf(dataset.ErrUnsupported, "a pool of backend dir cannot enforce a size (asked for %s): leave it out, or use a pool of backend loop", d.Size)
	case fs.Type != "":
		return dataset.Errorf(dataset.ErrUnsupported, "a pool of backend dir makes no filesystem (asked for %s): leave it out, or use a pool of backend loop", fs.Type)
	case len(fs.Mount) > 0:
		return dataset.Errorf(dataset.ErrUnsupported, "a pool of backend dir has no mount options (asked for %s): leave them out, or use a pool of backend loop", dataset.Have(fs.Mount))
	}
	return nil
}

// makeRoot makes the empty tree of a new dataset, durable but for its name.
func makeRoot(f *shelf.Folder, owner *dataset.Owner) error {
	if err := f.Mkdir(shelf.FirstHead, 0o700); err != nil {
		return err
	}
	dir, err := f.Open(shelf.FirstHead)
	if err != nil {
		return err
	}
	defer dir.Close()
	mode := uint32(0o755)
	if owner != nil {
		if err := dir.Chown(int(owner.UID), int(owner.GID)); err != nil {
			return err
		}
		if owner.Mode != nil {
			mode = *owner.Mode
		}
	}
	if err := unix.Fchmod(int(dir.Fd()), mode); err != nil {
		return err
	}
	return dir.Sync()
}

// copyTree copies a tree of one folder into a new one of another, durably; what
// an earlier try left in its place is removed.
func (p *Pool) copyTree(ctx context.Context, from *shelf.Folder, name string, to *shelf.Folder, as string, progress backends.Progress) (err error) {
	src, err := from.Open(name)
	if err != nil {
		return err
	}
	defer src.Close()
	size, err := tree.Usage(ctx, src)
	if err != nil {
		return err
	}
	if free, err := p.shelf.Free(); err != nil || (!p.shares && dataset.Size(size.Bytes) > free) {
		return orElse(err, dataset.Errorf(dataset.ErrNoSpace, "a copy takes %s, and the pool has %s left", dataset.Size(size.Bytes).Human(), free.Human()))
	}
	temp := shelf.Temp + as
	if err := removeAll(ctx, to, temp, as); err != nil {
		return err
	}
	if err := to.Mkdir(temp, 0o700); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			after, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			_ = removeAll(after, to, temp) // what is left of it Reap removes
		}
	}()
	dst, err := to.Open(temp)
	if err != nil {
		return err
	}
	defer dst.Close()
	told := func(done int64) {
		if progress != nil {
			progress(done, size.Bytes)
		}
	}
	if err := tree.Copy(ctx, src, dst, told, tree.WithSync()); err != nil {
		return err
	}
	return to.Rename(temp, as)
}

// removeAll removes trees of a folder; those that are absent are fine.
func removeAll(ctx context.Context, f *shelf.Folder, names ...string) error {
	dir, err := f.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, name := range names {
		if err := tree.Remove(ctx, dir, name); err != nil {
			return err
		}
	}
	return nil
}

// Used implements backends.Pool. It walks the tree.
func (p *Pool) Used(ctx context.Context, id uuid.UUID) (dataset.Size, error) {
	f, err := p.shelf.Find(id)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	head, err := f.Head()
	if err != nil {
		return 0, err
	}
	dir, err := f.Open(head.Tree)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	size, err := tree.Usage(ctx, dir)
	return dataset.Size(size.Bytes), err
}

func orElse(err, other error) error {
	if err != nil {
		return err
	}
	return other
}
