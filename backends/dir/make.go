package dir

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/tree"
)

// minSize leaves room for the root directory and a file.
const minSize = dataset.MiB

// Create implements backends.Pool. Without a size there is no limit, and 0 is returned.
func (p *Pool) Create(_ context.Context, d dataset.Dataset) (dataset.Size, error) {
	return p.make(d, func(f *shelf.Folder) (shelf.Head, error) {
		return p.makeRoot(f, d.Size, d.Profile.Owner)
	})
}

// Clone implements backends.Pool. The root keeps the owner and mode of the
// source's.
func (p *Pool) Clone(ctx context.Context, d dataset.Dataset, src dataset.Source,
	progress backends.Progress) (dataset.Size, error) {
	return p.make(d, func(f *shelf.Folder) (shelf.Head, error) {
		from, err := p.shelf.Find(src.Dataset)
		if err != nil {
			return shelf.Head{}, err
		}
		defer from.Close()
		name, size, err := p.source(ctx, from, src)
		if err != nil {
			return shelf.Head{}, err
		}
		size = max(size, d.Size)
		if p.projects.mend != "" { // the former limits do not apply here
			size = 0
		}
		return p.copyHead(ctx, from, name, f, shelf.Head{Tree: shelf.FirstHead, Size: size}, progress)
	})
}

// source returns the tree that src names, and its size. A head must not be in use.
func (p *Pool) source(ctx context.Context, f *shelf.Folder, src dataset.Source) (string, dataset.Size, error) {
	if src.Snapshot != uuid.Nil {
		s, err := f.Kept(src.Snapshot)
		return s.Tree, s.Limit, err
	}
	if err := p.idle(ctx, f, "copied"); err != nil {
		return "", 0, err
	}
	h, err := f.Head()
	return h.Tree, h.Size, err
}

// make makes a dataset whose head fill puts into its folder, and returns its size. What
// fails is taken back.
func (p *Pool) make(d dataset.Dataset, fill func(*shelf.Folder) (shelf.Head, error)) (dataset.Size, error) {
	if err := p.refuse(d); err != nil {
		return 0, err
	}
	f, whole, err := p.shelf.Make(d.ID)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if whole {
		h, err := f.Head()
		if err != nil {
			return 0, err
		}
		return h.Size, p.shelf.Finish(f, d)
	}
	p.step("dir.make.folder")
	h := shelf.Head{}
	if err = p.room(); err == nil {
		h, err = fill(f)
	}
	if err == nil && p.projects.mend == "" {
		p.step("dir.make.filled")
		err = f.WriteHead(h, false) // durable with the record, in the same folder
	}
	if err != nil {
		if dErr := p.shelf.Discard(d.ID); dErr != nil {
			return 0, fmt.Errorf("%w (and what was made of it stays: %v)", err, dErr)
		}
		return 0, err
	}
	p.step("dir.make.headed")
	return h.Size, p.shelf.Finish(f, d)
}

// refuse refuses properties that a directory cannot keep.
func (p *Pool) refuse(d dataset.Dataset) error {
	fs := d.Profile.Filesystem
	switch {
	case d.Encryption != nil:
		return dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend dir encrypts nothing: use a pool of backend loop or lvm")
	case fs.Type != "":
		return dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend %s makes no filesystem (asked for %s): leave it out, or use a pool of backend loop",
			p.kind, fs.Type)
	case len(fs.Mount) > 0:
		return dataset.Errorf(dataset.ErrUnsupported,
			"a pool of backend %s has no mount options (asked for %s): leave them out, or use a pool of "+
				"backend loop", p.kind, dataset.Have(fs.Mount))
	case d.Size == 0:
		return nil
	case p.projects.mend != "":
		return dataset.Errorf(dataset.ErrUnsupported,
			"this pool of backend %s cannot enforce a size (asked for %s): leave it out, or use a pool of "+
				"backend loop (%s)", p.kind, d.Size, p.projects.mend)
	}
	return p.fits(d.Size)
}

// makeRoot makes the empty tree of a new dataset. The tree is durable, except for its name.
func (p *Pool) makeRoot(f *shelf.Folder, size dataset.Size, owner *dataset.Owner) (shelf.Head, error) {
	h := shelf.Head{Tree: shelf.FirstHead, Size: size}
	if err := f.Mkdir(h.Tree, 0o700); err != nil {
		return h, err
	}
	dir, err := openTree(f, h.Tree)
	if err != nil {
		return h, err
	}
	defer dir.Close()
	mode := uint32(0o755)
	if owner != nil {
		if err := dir.Chown(int(owner.UID), int(owner.GID)); err != nil {
			return h, err
		}
		if owner.Mode != nil {
			mode = *owner.Mode
		}
	}
	if err := unix.Fchmod(int(dir.Fd()), mode); err != nil {
		return h, err
	}
	if p.projects.mend == "" {
		if h.Project, err = p.projects.enter(dir); err != nil {
			return h, err
		}
		p.step("dir.make.entered")
		if err := fsctl.LimitProject(dir, h.Project, uint64(size)); err != nil {
			return h, err
		}
	}
	return h, dir.Sync()
}

// copyHead copies a tree for a new head of that size, in a project of its own.
func (p *Pool) copyHead(ctx context.Context, from *shelf.Folder, name string, to *shelf.Folder, h shelf.Head,
	progress backends.Progress) (shelf.Head, error) {
	if p.projects.mend != "" {
		return h, p.copyTree(ctx, from, name, to, h.Tree, copying{}, progress)
	}
	err := p.copyTree(ctx, from, name, to, h.Tree, copying{
		within: h.Size,
		begin:  func(dir *os.File) (err error) { h.Project, err = p.projects.enter(dir); return err },
		// Only now, because a copy may use a block more than its source.
		end: func(dir *os.File) error { return fsctl.LimitProject(dir, h.Project, uint64(h.Size)) },
	}, progress)
	return h, err
}

// copying says what else belongs to a copy.
type copying struct {
	within dataset.Size             // the copied data must fit into it; 0: no limit
	begin  func(dir *os.File) error // before there is anything in it
	end    func(dir *os.File) error
}

// copyTree copies a tree of one folder into a new one of another, durably; the tree of an earlier attempt in
// its place is removed.
func (p *Pool) copyTree(ctx context.Context, from *shelf.Folder, name string, to *shelf.Folder, as string,
	c copying, progress backends.Progress) (err error) {
	src, err := from.Open(name)
	if err != nil {
		return err
	}
	defer src.Close()
	size, err := tree.Usage(ctx, src)
	if err != nil {
		return err
	}
	if used := dataset.Size(size.Bytes); c.within != 0 && used > c.within {
		return over("what is to be copied", used, c.within)
	}
	switch st, err := p.shelf.Space(); {
	case err != nil:
		return err
	case !p.shares && dataset.Size(size.Bytes) > st.Free:
		return dataset.Errorf(dataset.ErrNoSpace, "a copy takes %s, and the pool has %s left",
			dataset.Size(size.Bytes).Human(), st.Free.Human())
	}
	temp := shelf.Temp + as
	if err := p.removeAll(ctx, to, temp, as); err != nil {
		return err
	}
	if err := to.Mkdir(temp, 0o700); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			after, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			_ = p.removeAll(after, to, temp) // Reap removes the rest of it
		}
	}()
	dst, err := openTree(to, temp)
	if err != nil {
		return err
	}
	defer dst.Close()
	if c.begin != nil {
		if err := c.begin(dst); err != nil {
			return err
		}
		p.step("dir.copy.entered")
	}
	told := func(done int64) {
		if progress != nil {
			progress(done, size.Bytes)
		}
	}
	if err := tree.Copy(ctx, src, dst, told, tree.WithSync()); err != nil {
		return err
	}
	p.step("dir.copy.copied")
	if c.end != nil {
		if err := c.end(dst); err != nil {
			return err
		}
		p.step("dir.copy.limited")
	}
	return to.Rename(temp, as)
}

// removeAll removes trees of a folder; those that are absent are fine.
func (p *Pool) removeAll(ctx context.Context, f *shelf.Folder, names ...string) error {
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
