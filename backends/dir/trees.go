package dir

import (
	"cmp"
	"context"
	"os"
	"time"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mkfs"
	"github.com/droverhq/drover/internal/tree"
)

// makeRoot makes the empty tree of a new dataset. The tree is durable, except for its name.
func (p *Pool) makeRoot(f *shelf.Folder, size dataset.Size, owner *dataset.Owner) (shelf.Head, error) {
	h := shelf.Head{Tree: shelf.FirstHead, Size: size}
	if err := f.Mkdir(h.Tree); err != nil {
		return h, err
	}
	dir, err := openTree(f, h.Tree)
	if err != nil {
		return h, err
	}
	defer dir.Close()
	if err := mkfs.SetOwner(dir, owner); err != nil {
		return h, err
	}
	if p.projects.advice == "" {
		if h.Project, err = p.projects.assign(dir); err != nil {
			return h, err
		}
		p.step("dir.make.entered")
		if err := fsctl.LimitProject(dir, h.Project, uint64(size)); err != nil {
			return h, err
		}
	}
	return h, dir.Sync()
}

// copyHead copies a tree to a new head with the size of h, in its own project.
func (p *Pool) copyHead(ctx context.Context, from *shelf.Folder, name string, to *shelf.Folder, h shelf.Head,
	progress backends.Progress) (shelf.Head, error) {
	if p.projects.advice != "" {
		return h, p.copyTree(ctx, from, name, to, h.Tree, copyOptions{}, progress)
	}
	err := p.copyTree(ctx, from, name, to, h.Tree, copyOptions{
		maxSize: h.Size,
		begin:   func(dir *os.File) (err error) { h.Project, err = p.projects.assign(dir); return err },
		// The limit is set last, because a copy may use a block more than its source.
		end: func(dir *os.File) error { return fsctl.LimitProject(dir, h.Project, uint64(h.Size)) },
	}, progress)
	return h, err
}

// copyOptions has the optional parts of copyTree.
type copyOptions struct {
	maxSize dataset.Size             // bounds the copied data; 0 means no limit
	begin   func(dir *os.File) error // called while the new tree is empty
	end     func(dir *os.File) error
}

// copyTree durably copies a tree from one folder to another. name is the name of the tree in the folder from, and
// copyName the name of the copy in the folder to. If an earlier attempt left a tree with that name, copyTree removes it
// first.
func (p *Pool) copyTree(ctx context.Context, from *shelf.Folder, name string, to *shelf.Folder, copyName string,
	c copyOptions, progress backends.Progress) (err error) {
	src, err := from.Open(name)
	if err != nil {
		return err
	}
	defer src.Close()
	size, err := measure(ctx, src, c.maxSize)
	if err != nil {
		return err
	}
	left := size // to be written
	others := dataset.Size(p.copying.Add(left) - left)
	defer func() { p.copying.Add(-left) }()
	keep, err := p.checkFits(dataset.Size(left), others)
	if err != nil {
		return err
	}
	temp := shelf.Temp + copyName
	if err := p.removeAll(ctx, to, temp, copyName); err != nil {
		return err
	}
	if err := to.Mkdir(temp); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			after, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			_ = p.removeAll(after, to, temp) // if this fails, Reap removes the rest
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
	copying, end := context.WithCancelCause(ctx)
	defer end(nil)
	names := 0
	report := func(done int64) {
		if names++; done/checkEach > (size-left)/checkEach || names%checkEachNames == 0 {
			if err := p.checkReserve(dst, keep); err != nil {
				end(err)
			}
		}
		p.copying.Add(max(size-done, 0) - left)
		left = max(size-done, 0)
		if progress != nil {
			progress(done, size)
		}
	}
	if err := tree.Copy(copying, src, dst, report, tree.WithSync()); err != nil {
		return cmp.Or(context.Cause(copying), err)
	}
	p.step("dir.copy.copied")
	if c.end != nil {
		if err := c.end(dst); err != nil {
			return err
		}
		p.step("dir.copy.limited")
	}
	return to.Rename(temp, copyName)
}

// measure returns how many bytes a tree has. It fails if that is more than limit, unless limit is 0.
func measure(ctx context.Context, dir *os.File, limit dataset.Size) (int64, error) {
	size, err := tree.Usage(ctx, dir)
	if used := dataset.Size(size.Bytes); err == nil && limit != 0 && used > limit {
		err = tooLargeError("the source of the copy", used, limit)
	}
	return size.Bytes, err
}

// checkFits fails if a copy of size bytes would leave less than the reserve of the pool, beside the bytes that other
// copies have still to write. It returns how much must stay free. A copy that shares blocks is not refused, because it
// takes little. Below the reserve, only a restore copies, and it may take half of what is free.
func (p *Pool) checkFits(size, others dataset.Size) (keep dataset.Size, err error) {
	st, err := p.Space()
	reserve := backends.Reserve(st.Size)
	if p.shares && st.Free < reserve {
		return st.Free / 2, err
	} else if err != nil || p.shares || size+others+reserve <= st.Free {
		return reserve, err
	}
	return reserve, dataset.Errorf(dataset.ErrNoSpace, "a copy takes %s, and the pool has %s left, %s of it for its "+
		"existing volumes, %s for other copies", size.Human(), st.Free.Human(), reserve.Human(), others.Human())
}

// At most so many bytes or names are copied between two calls of checkReserve.
const checkEach, checkEachNames = 4 << 20, 1000

// checkReserve fails if the filesystem of dst has less free space than keep, or hardly any free inodes. Copies that
// share blocks need space, too, for attributes and for some files (chattr +C). It takes microseconds, except if XFS
// reports too little for a moment (see fsctl.Space).
func (p *Pool) checkReserve(dst *os.File, keep dataset.Size) error {
	st, err := fsctl.Statfs(dst)
	free := dataset.Size(st.Bavail) * dataset.Size(st.Frsize)
	if err == nil && free < keep && p.shares {
		now, sErr := p.Space()
		free, err = now.Free, sErr
	}
	if err != nil || free >= keep && st.Ffree >= st.Files/100 {
		return err
	}
	return dataset.Errorf(dataset.ErrNoSpace, "the copy was ended, because its pool needs %s and some inodes for its "+
		"existing volumes", keep.Human())
}

// removeAll removes trees of a folder. Absent trees are ignored.
func (p *Pool) removeAll(ctx context.Context, f *shelf.Folder, names ...string) error {
	for _, name := range names {
		if err := tree.Remove(ctx, f.File, name); err != nil {
			return err
		}
	}
	return nil
}

// discard removes the tree of a new head after a restore failed. The tree takes as much room as the head. Reap removes
// what discard cannot remove.
func (p *Pool) discard(ctx context.Context, f *shelf.Folder, h shelf.Head) {
	if !f.Removable(h.Tree) {
		return
	}
	p.projects.liftLimit(f, h)
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	_ = p.removeAll(after, f, h.Tree)
}
