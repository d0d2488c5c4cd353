package trialdir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/tree"
)

// Remove removes an unused sandbox that Find found, with its content. kinds are the backends that may have made its
// pools. If the sandbox is absent, Remove returns nil. It fails with dataset.ErrInUse if the sandbox is used, and with
// dataset.ErrCorrupt if the folder is no sandbox.
func Remove(ctx context.Context, kinds *backends.Registry, l FoundFolder) error {
	if err := l.readMark(); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return dataset.Errorf(dataset.ErrCorrupt, "%s is not changed: %w", l.Path, err)
	}
	f, err := l.lockMark()
	if f != nil {
		defer f.Close()
	}
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return dataset.Errorf(dataset.ErrInUse, "%s is in use by a running drover backend verify: wait until it "+
			"ends, or end it", l.Path)
	case errors.Is(err, os.ErrNotExist): // the folder is empty; a process that is making the sandbox fails
		return safefile.AbsentIsFine(os.Remove(l.Path))
	case err != nil:
		return err
	}
	return l.Sandbox.Remove(ctx, kinds)
}

// Remove removes a sandbox that the caller has locked. It removes the mark last, so that after an error the rest is
// still recognised as a sandbox.
func (c *Sandbox) Remove(ctx context.Context, kinds *backends.Registry) error {
	var list []backends.Kind
	if kinds != nil {
		list = slices.DeleteFunc(slices.Clone(kinds.Kinds()),
			func(k backends.Kind) bool { return c.Backend != "" && k.Name() != c.Backend })
	}
	entries, err := os.ReadDir(c.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", c.Path, err)
	}
	for _, e := range entries {
		if e.Name() == markName {
			continue
		}
		if err := Clear(ctx, list, filepath.Join(c.Path, e.Name())); err != nil {
			return err
		}
	}
	err = errors.Join(safefile.AbsentIsFine(os.Remove(filepath.Join(c.Path, markName))), os.Remove(c.Path))
	return safefile.AbsentIsFine(err)
}

// Clear removes a folder of a sandbox. First it removes the mounts below the folder, and the datasets of the pools in
// it, with the storage that these pools have outside of the folder.
func Clear(ctx context.Context, kinds []backends.Kind, path string) error {
	if err := errors.Join(unmount(path), waitDetached(ctx, path)); err != nil {
		return fmt.Errorf("clear %s: %w", path, err)
	}
	pools, err := findDirs(path, func(dir string, _ fs.DirEntry) bool {
		_, err := os.Lstat(filepath.Join(dir, markerName))
		return err == nil
	})
	for _, at := range pools {
		err = errors.Join(err, emptyPool(ctx, kinds, at))
	}
	if err != nil {
		return fmt.Errorf("clear %s: %w", path, err)
	}
	if kind, err := fsctl.KindOf(filepath.Dir(path)); err == nil && kind == "btrfs" {
		if err := destroySubvolumes(path); err != nil {
			return fmt.Errorf("clear %s: %w", path, err)
		}
	}
	parent, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer parent.Close()
	return tree.Remove(ctx, parent, filepath.Base(path))
}

// unmount unmounts all mounts below path in the reverse order of mounting.
func unmount(path string) error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(table.Under(path)) {
		if err := mount.Unmount(m.Mountpoint); err != nil {
			return err
		}
	}
	return nil
}

// detachTimeout is how long Clear waits for a loop device to be detached after its last unmount. The last process that
// uses the device may still be ending.
const detachTimeout = 20 * time.Second

// waitDetached waits until no loop device has a file below path. It thaws frozen filesystems, because their loop
// devices would never be detached.
func waitDetached(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, detachTimeout)
	defer cancel()
	for {
		loops, err := devicesBelow(path)
		if err != nil || len(loops) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return dataset.Errorf(dataset.ErrInUse, "%s is still attached to %s (losetup -d %s)", loops[0].Path,
				loops[0].Backing, loops[0].Path)
		case <-time.After(50 * time.Millisecond):
		}
		if err := Thaw(path); err != nil {
			return err
		}
	}
}

// depth is the maximum depth of pools below a sandbox, and of subvolumes in them.
const depth = 8

// findDirs looks at path and all directories below it, and returns those for which accept returns true. It does not
// search an accepted directory.
func findDirs(path string, accept func(string, fs.DirEntry) bool) (found []string, err error) {
	err = filepath.WalkDir(path, func(at string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil
		case err != nil:
			return err
		case !e.IsDir():
			return nil
		case accept(at, e):
			found = append(found, at)
			return fs.SkipDir
		case strings.Count(strings.TrimPrefix(at, path), "/") >= depth:
			return fs.SkipDir
		}
		return nil
	})
	return found, err
}

// emptyPool removes all datasets of a pool, the storage that the pool has outside of path, and finally the marker of
// the pool. It fails if the pool cannot be opened: if the folder were removed nevertheless, that storage would stay,
// and no marker would name its pool. If the marker is absent or unreadable, or the backend is not in kinds, emptyPool
// does nothing: the caller removes the folder like any other.
func emptyPool(ctx context.Context, kinds []backends.Kind, path string) error {
	marker, err := markerOf(path)
	i := slices.IndexFunc(kinds, func(k backends.Kind) bool { return k.Name() == marker.Backend })
	if err != nil || i < 0 {
		return nil
	}
	cfg := backends.Config{ID: marker.ID, Name: "sandbox", Path: path}
	pool, err := kinds[i].Open(ctx, cfg)
	if errors.Is(err, dataset.ErrOffline) { // the storage outside of path was not made yet, or was removed already
		cfg.Make = true
		pool, err = kinds[i].Open(ctx, cfg)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(purge(ctx, pool), pool.Close()); err != nil {
		return err
	}
	return os.Remove(filepath.Join(path, markerName))
}

func purge(ctx context.Context, pool backends.Pool) error {
	list, err := pool.List(ctx)
	if err != nil {
		return err
	}
	var failed error
	for _, e := range list {
		if e.ID != uuid.Nil && e.State != backends.EntryDeleting {
			failed = errors.Join(failed, pool.Delete(ctx, e.ID))
		}
	}
	_, err = pool.Reap(ctx, func(uuid.UUID) bool { return true })
	r, ok := pool.(backends.StorageRemover)
	if !ok {
		return err // the caller removes the folder, and with it the remains of datasets
	}
	if err := errors.Join(failed, err); err != nil {
		return err
	}
	return r.RemoveStorage(ctx)
}

// destroySubvolumes destroys the btrfs subvolumes below path. A read-only subvolume cannot be removed as a directory.
func destroySubvolumes(path string) error {
	const root = 256 // the inode of a subvolume's root: fs/btrfs/btrfs_inode.h
	list, err := findDirs(path, func(_ string, e fs.DirEntry) bool {
		info, err := e.Info()
		if err != nil {
			return false
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		return ok && st.Ino == root
	})
	for _, at := range list {
		err = errors.Join(err, destroy(at))
	}
	return err
}

func destroy(subvolume string) error {
	parent, err := os.Open(filepath.Dir(subvolume))
	if err != nil {
		return err
	}
	defer parent.Close()
	return btrfsctl.DeleteAll(parent, filepath.Base(subvolume), nil)
}
