// Package subvolume makes, copies and destroys the subvolumes of a pool. A subvolume is a tree in the folder of a
// dataset (package shelf). Only backend btrfs calls it. A [Store] has no state besides the [quota.Counters] of
// destroyed subvolumes. The caller of backends.Pool prevents concurrent changes of one dataset.
package subvolume

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/btrfs/quota"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/tree"
)

// Open opens the subvolume that is a tree of a folder. It fails with dataset.ErrCorrupt if the tree is absent or no
// subvolume.
func Open(f *shelf.Folder, name string) (*os.File, error) {
	info, err := f.Lstat(name)
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: its subvolume %s is missing: %w", f.ID, name, err)
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
			"dataset %s: %s is not a subvolume, so drover did not create it (was the pool copied file by "+
				"file?)", f.ID, name)
	}
	return dir, nil
}

// OpenReadOnly opens the tree of a snapshot. It makes the subvolume read-only first, because a crash can have left it
// writable.
func OpenReadOnly(f *shelf.Folder, s shelf.SnapshotRecord) (*os.File, error) {
	dir, err := Open(f, s.Tree)
	if err != nil {
		return nil, err
	}
	if err := btrfsctl.SetReadOnly(dir); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// Protect durably makes a tree read-only, as every snapshot must be.
func Protect(f *shelf.Folder, name string) error {
	dir, err := OpenReadOnly(f, shelf.SnapshotRecord{Tree: name})
	if err != nil {
		return err
	}
	defer dir.Close()
	return shelf.SyncDir(f.Root)
}

// Flush makes everything that was written to a tree durable.
func Flush(f *shelf.Folder, name string) error {
	dir, err := Open(f, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return fsctl.Sync(dir)
}

// CheckNested fails with dataset.ErrUnsupported if containers made subvolumes in a tree.
func CheckNested(f *shelf.Folder, dir *os.File) error {
	nested, err := btrfsctl.Nested(dir)
	if err != nil || len(nested) == 0 {
		return err
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"dataset %s contains %d subvolumes that were created inside of it: a snapshot would omit them, and no "+
			"size limits them (list them with btrfs subvolume list -o on its mount point, and delete them, or use a "+
			"pool of backend loop)", f.ID, len(nested))
}

// Store copies and destroys subvolumes. It is safe for concurrent use on different datasets.
type Store struct {
	Counters *quota.Counters
	Step     func(string) // called between two actions, for tests
}

// Copy makes a tree with the content that another tree has at one moment. If an earlier attempt left a tree of the same
// name, Copy destroys that tree first. It fails with dataset.ErrUnsupported if containers made subvolumes in the source
// (see CheckNested). The kernel makes the snapshot in the commit of a transaction. So when Copy returns, the copy and
// all earlier changes of the filesystem are durable.
func (s *Store) Copy(ctx context.Context, from *shelf.Folder, name string, to *shelf.Folder, copyName string,
	readOnly bool) error {
	src, err := Open(from, name)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := CheckNested(from, src); err != nil {
		return err
	}
	dir, err := to.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := s.Destroy(ctx, dir, copyName); err != nil {
		return err
	}
	s.Step("btrfs.copy.begun")
	if err := btrfsctl.Snapshot(dir, copyName, src, readOnly); err != nil {
		return backends.NoSpace(err)
	}
	// The source may be in use. Subvolumes that a process has made in the source are not part of the snapshot.
	if err := CheckNested(from, src); err != nil {
		if dErr := s.Destroy(context.WithoutCancel(ctx), dir, copyName); dErr != nil {
			err = fmt.Errorf("%w (the copy could not be removed; the next start retries: %v)", err, dErr)
		}
		return err
	}
	return nil
}

// Destroy removes a subvolume, or a folder with the subvolumes in it. Idempotent. Package shelf calls it as the Destroy
// function of the pool.
func (s *Store) Destroy(ctx context.Context, dir *os.File, name string) error {
	s.Step("btrfs.destroy.begun")
	defer s.Counters.Collect() // those of subvolumes that were destroyed earlier
	defer s.Counters.Destroying()()
	err := btrfsctl.DeleteAll(dir, name, s.Counters.Record)
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
	for _, child := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := btrfsctl.DeleteAll(folder, child, s.Counters.Record)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, btrfsctl.ErrNotSubvolume) {
			return err
		}
		s.Step("btrfs.destroy.inside")
	}
	return tree.Remove(ctx, dir, name)
}

// DestroyIn removes names of a folder. Idempotent.
func (s *Store) DestroyIn(ctx context.Context, f *shelf.Folder, names ...string) error {
	dir, err := f.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, name := range names {
		if err := s.Destroy(ctx, dir, name); err != nil {
			return err
		}
	}
	return nil
}
