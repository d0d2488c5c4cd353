package btrfs

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/tree"
)

// openSubvolume opens the subvolume that is a tree of a folder. It fails with dataset.ErrCorrupt if the tree is absent
// or no subvolume.
func openSubvolume(f *shelf.Folder, name string) (*os.File, error) {
	st, err := f.Lstat(name)
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrCorrupt, "dataset %s: its subvolume %s is missing: %w", f.ID, name, err)
	}
	ok := safefile.IsDir(st)
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

// openReadOnly opens the tree of a snapshot. It makes the subvolume read-only first, because a crash can have left it
// writable.
func openReadOnly(f *shelf.Folder, s shelf.SnapshotRecord) (*os.File, error) {
	dir, err := openSubvolume(f, s.Tree)
	if err != nil {
		return nil, err
	}
	if err := btrfsctl.SetReadOnly(dir); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// protect durably makes a tree read-only, as every snapshot must be.
func protect(f *shelf.Folder, name string) error {
	dir, err := openReadOnly(f, shelf.SnapshotRecord{Tree: name})
	if err != nil {
		return err
	}
	defer dir.Close()
	return shelf.SyncDir(f.Dir)
}

// flushTree makes everything that was written to a tree durable.
func flushTree(f *shelf.Folder, name string) error {
	dir, err := openSubvolume(f, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return fsctl.Sync(dir)
}

// checkNested fails with dataset.ErrUnsupported if containers made subvolumes in a tree.
func checkNested(f *shelf.Folder, dir *os.File) error {
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
type subvolumes struct {
	Counters *counters
	Commits  btrfsctl.Commits
	Step     func(string) // called between two actions, for tests
}

// Copy makes a tree with the content that another tree has at one moment. If an earlier attempt left a tree of the same
// name, Copy destroys that tree first. It fails with dataset.ErrUnsupported if containers made subvolumes in the source
// (see checkNested). The kernel makes the snapshot in the commit of a transaction. So when Copy returns, the copy and
// all earlier changes of the filesystem are durable.
func (s *subvolumes) Copy(ctx context.Context, from *shelf.Folder, name string, to *shelf.Folder, copyName string,
	readOnly bool) error {
	src, err := openSubvolume(from, name)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := checkNested(from, src); err != nil {
		return err
	}
	if err := s.destroy(ctx, to.Dir, copyName); err != nil {
		return err
	}
	s.Step("btrfs.copy.begun")
	if err := btrfsctl.Snapshot(to.File, copyName, src, readOnly); err != nil {
		return backends.NoSpace(err)
	}
	// The source may be in use. Subvolumes that a process has made in the source are not part of the snapshot.
	if err := checkNested(from, src); err != nil {
		if dErr := s.Destroy(context.WithoutCancel(ctx), to.Dir, copyName); dErr != nil {
			err = fmt.Errorf("%w (the copy could not be removed; the next start retries: %v)", err, dErr)
		}
		return err
	}
	return nil
}

// Destroy removes subvolumes, or folders with the subvolumes in them. Idempotent. Package shelf calls it as the Destroy
// function of the pool. The kernel removes their content only after a commit, for which Destroy waits. From then on
// btrfs frees the space before it refuses a write, which it does not before the commit (seen with Linux 6.18).
func (s *subvolumes) Destroy(ctx context.Context, dir safefile.Dir, names ...string) error {
	for _, name := range names {
		if err := s.destroy(ctx, dir, name); err != nil {
			return err
		}
	}
	return s.commit(dir.File)
}

// commit makes all earlier changes of the pool durable.
func (s *subvolumes) commit(dir *os.File) error {
	return s.Commits.Wait(func() error { return btrfsctl.Commit(dir) })
}

func (s *subvolumes) destroy(ctx context.Context, dir safefile.Dir, name string) error {
	s.Step("btrfs.destroy.begun")
	defer s.Counters.Collect() // those of subvolumes that were destroyed earlier
	defer s.Counters.Destroying()()
	err := btrfsctl.DeleteAll(dir.File, name, s.Counters.Record)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if !errors.Is(err, btrfsctl.ErrNotSubvolume) {
		return err
	}
	folder, err := dir.Sub(name)
	if err != nil {
		return tree.Remove(ctx, dir.File, name) // no directory
	}
	defer folder.Close()
	children, err := folder.Names(".")
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := btrfsctl.DeleteAll(folder.File, child, s.Counters.Record)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, btrfsctl.ErrNotSubvolume) {
			return err
		}
		s.Step("btrfs.destroy.inside")
	}
	return tree.Remove(ctx, dir.File, name)
}
