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
	"github.com/droverhq/drover/internal/tree"
)

// open opens the subvolume that a tree of a folder is. dataset.ErrCorrupt: it is none.
func open(f *shelf.Folder, name string) (*os.File, error) {
	info, err := f.Lstat(name)
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: its subvolume %s is gone: %w", f.ID, name, err)
	}
	ok := info.IsDir()
	var dir *os.File
	if ok {
		if dir, err = f.Open(name); err != nil {
			return nil, err
		}
		if ok, err = btrfsctl.IsSubvolume(dir); err != nil {
			_ = dir.Close()
			return nil, err
		}
	}
	if !ok {
		if dir != nil {
			_ = dir.Close()
		}
		return nil, dataset.Errorf(dataset.ErrCorrupt,
			"dataset %s: %s is no subvolume: drover made no such thing (was the pool copied file by file?)", f.ID, name)
	}
	return dir, nil
}

// copyTree makes a tree with the content of another at one moment; the tree of an earlier attempt in its
// place is destroyed. It is durable when it returns, with all that was done before: a snapshot is made by the
// commit of the transaction that it is part of.
func (p *Pool) copyTree(ctx context.Context, from *shelf.Folder, name string, to *shelf.Folder, as string,
	readOnly bool) error {
	src, err := open(from, name)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := plain(from, src); err != nil {
		return err
	}
	dir, err := to.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := p.destroy(ctx, dir, as); err != nil {
		return err
	}
	p.step("btrfs.copy.begun")
	if err := btrfsctl.Snapshot(dir, as, src, readOnly); err != nil {
		return noSpace(err)
	}
	// The source may be in use: a subvolume that was made in it before the snapshot is not in that.
	if err := plain(from, src); err != nil {
		if dErr := p.destroy(context.WithoutCancel(ctx), dir, as); dErr != nil {
			err = fmt.Errorf("%w (the copy could not be removed, the next start tries again: %v)", err, dErr)
		}
		return err
	}
	return nil
}

// plain fails with dataset.ErrUnsupported where something in a dataset made subvolumes in a tree of it.
func plain(f *shelf.Folder, tree *os.File) error {
	inside, err := btrfsctl.Nested(tree)
	if err == nil && len(inside) > 0 {
		err = nests(f, len(inside))
	}
	return err
}

// nests is the error where something in a dataset made subvolumes.
func nests(f *shelf.Folder, n int) error {
	return dataset.Errorf(dataset.ErrUnsupported,
		"dataset %s holds %d subvolumes that something in it made: a snapshot would leave them out, and no "+
			"size bounds them (btrfs subvolume list -o its mount point, and delete them, or use a pool of "+
			"backend loop)", f.ID, n)
}

// destroy removes a subvolume, or a folder with the subvolumes in it. Idempotent. See shelf.Shelf.
func (p *Pool) destroy(ctx context.Context, dir *os.File, name string) error {
	p.step("btrfs.destroy.begun")
	defer p.forgetGone() // of earlier ones
	p.counts.RLock()
	defer p.counts.RUnlock()
	err := btrfsctl.DeleteAll(dir, name, p.noteGoing)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if !errors.Is(err, btrfsctl.ErrNotSubvolume) {
		return err
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return tree.Remove(ctx, dir, name) // no directory
	}
	folder := os.NewFile(uintptr(fd), name)
	defer folder.Close()
	names, err := folder.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, inside := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := btrfsctl.DeleteAll(folder, inside, p.noteGoing)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, btrfsctl.ErrNotSubvolume) {
			return err
		}
		p.step("btrfs.destroy.inside")
	}
	return tree.Remove(ctx, dir, name)
}

// destroyIn removes names of a folder.
func (p *Pool) destroyIn(ctx context.Context, f *shelf.Folder, names ...string) error {
	dir, err := f.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, name := range names {
		if err := p.destroy(ctx, dir, name); err != nil {
			return err
		}
	}
	return nil
}

// describe adds to an entry its snapshots, and the problems of the folder.
func (p *Pool) describe(f *shelf.Folder, e *backends.Entry) {
	shelf.DescribeTrees(f, e)
	if strange, err := f.Strangers(); err != nil {
		shelf.AddProblem(e, err)
	} else if len(strange) > 0 {
		shelf.AddProblem(e, strangers(f, strange))
	}
	head, err := f.Head()
	if err != nil {
		return // DescribeTrees says so
	}
	if f.State == backends.EntryCopy {
		describeCopy(f, head, e)
		return
	}
	dir, err := open(f, head.Tree)
	if err != nil {
		if _, gone := f.Lstat(head.Tree); gone == nil { // DescribeTrees reports it
			shelf.AddProblem(e, err)
		}
		return
	}
	defer dir.Close()
	if err := p.misses(dir, head.Size); err != nil && f.State == backends.EntryReady {
		shelf.AddProblem(e, err)
	}
	if err := plain(f, dir); err != nil {
		shelf.AddProblem(e, err)
	}
}

func strangers(f *shelf.Folder, names []string) error {
	return dataset.Errorf(dataset.ErrCorrupt,
		"dataset %s: its folder holds %s, which drover did not put there: move it elsewhere", f.ID, dataset.Have(names))
}

// Delete implements backends.Pool. A folder that holds what Drover did not make stays.
func (p *Pool) Delete(ctx context.Context, id uuid.UUID) error {
	return p.shelf.Delete(ctx, id, func(folder string) error {
		f, err := p.shelf.FindAny(id)
		switch {
		case errors.Is(err, dataset.ErrNotFound): // it is not whole
		case err != nil:
			return err
		default:
			names, err := f.Strangers()
			if err == nil && len(names) > 0 {
				err = strangers(f, names)
			}
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
		}
		return p.uses.Idle(ctx, id, folder)
	})
}

// Reap implements backends.Pool.
func (p *Pool) Reap(ctx context.Context, drop func(uuid.UUID) bool) (int, error) {
	defer p.forgetGone()
	return p.shelf.Reap(ctx, drop, func(f *shelf.Folder) (int, error) {
		doomed, err := f.Leftovers()
		if err != nil {
			return 0, err
		}
		return len(doomed), p.destroyIn(ctx, f, doomed...)
	})
}

// noSpace gives a failure its kind.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return dataset.Errorf(dataset.ErrNoSpace, "%w", err)
	}
	return err
}

// over is the error where something does not fit into a size.
func over(what string, used, size dataset.Size) error {
	return dataset.Errorf(dataset.ErrUnsupported, "%s holds %s, which is more than %s", what, used.Human(), size)
}
