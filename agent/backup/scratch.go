package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/storage"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// noteName is the file with the note in the folder of a dataset.
const noteName = "clone.json"

// noteFormat is the format of note that this program writes, and the latest that it reads.
const noteFormat = 1

// note names the clone that a backup reads, so that it can be found after a crash.
type note struct {
	Format int       `json:"format"`
	Pool   uuid.UUID `json:"pool"`
	Clone  uuid.UUID `json:"clone"`
}

// folders is the folder with the folders of all datasets that are backed up.
func (c *Creator) folders() string { return filepath.Join(c.deps.Root, "backups") }

// folder is the folder that restic reads for a dataset. Its name is the UUID of the dataset, so that the folder and its
// clone can be found after a crash.
func (c *Creator) folder(id uuid.UUID) string { return filepath.Join(c.folders(), id.String()) }

// prepare makes the folder of a dataset with the note, before the clone is made. The caller has the dataset's lock in
// busy.
func (c *Creator) prepare(id uuid.UUID, n note) error {
	n.Format = noteFormat
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	dir := c.folder(id)
	if err := os.MkdirAll(filepath.Join(dir, DataName), 0o700); err != nil {
		return err
	}
	// Only root may enter: the data can contain programs of root with the set-user-ID bit.
	if err := os.Chmod(c.folders(), 0o700); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, noteName), text)
}

// writeFile writes a private file, and flushes it.
func writeFile(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// UnmountLeftovers ends the runs of restic that outlived the agent, and unmounts the clones that a crash left mounted.
// It is called before the pools are opened: a pool destroys a clone that was not recorded, and cannot while the clone
// is mounted. It is called before the first operation, so this agent has started no restic yet.
func (c *Creator) UnmountLeftovers() error {
	var all error
	for _, id := range c.leftovers() {
		dir := c.folder(id)
		all = errors.Join(all, endOutlived(dir), unmount(filepath.Join(dir, DataName)))
	}
	return all
}

// Clear removes what a crash left: the folders and the clones of the backups that do not run, and the unwanted backups.
// What cannot be removed stays: the next backup of this host tries again, and so does the next call of Clear.
func (c *Creator) Clear(ctx context.Context) {
	c.clearFolders(ctx)
	c.removeUnwanted(ctx)
}

func (c *Creator) clearFolders(ctx context.Context) {
	for _, id := range c.leftovers() {
		unlock, ok := c.tryLock(ctx, id)
		if !ok {
			continue // it runs
		}
		if err := c.clear(ctx, id); err != nil && ctx.Err() == nil {
			c.deps.Log.WithError(err).WithField("dataset", id).Warn("cannot remove what an interrupted backup left")
		}
		unlock()
	}
}

// tryLock takes the lock of a dataset in busy if it is free.
func (c *Creator) tryLock(ctx context.Context, id uuid.UUID) (unlock func(), ok bool) {
	ended, cancel := context.WithCancel(ctx)
	cancel()
	unlock, err := c.busy.Lock(ended, id, "clean-up")
	return unlock, err == nil
}

// leftovers returns the datasets that have a folder.
func (c *Creator) leftovers() (ids []uuid.UUID) {
	entries, err := os.ReadDir(c.folders())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.deps.Log.WithError(err).Warn("cannot read the folder of the backups")
	}
	for _, e := range entries {
		if id, err := uuid.Parse(e.Name()); err == nil && e.IsDir() && e.Name() == id.String() {
			ids = append(ids, id)
		}
	}
	return ids
}

// clear unmounts and destroys the clone of a dataset, and removes the folder. Idempotent. The caller has the dataset's
// lock in busy. If the clone cannot be destroyed, clear fails, and the folder keeps the note. clear does not end with
// ctx: a clone must not stay because its backup was cancelled.
func (c *Creator) clear(ctx context.Context, id uuid.UUID) error {
	ctx = context.WithoutCancel(ctx)
	dir := c.folder(id)
	if err := unmount(filepath.Join(dir, DataName)); err != nil {
		return err
	}
	if err := c.discard(ctx, filepath.Join(dir, noteName)); err != nil {
		return err
	}
	for _, path := range []string{
		filepath.Join(dir, DataName), filepath.Join(dir, RecordName), filepath.Join(dir, EntryName),
		filepath.Join(dir, noteName), dir,
	} {
		// Nothing is removed recursively: the data of a clone that is still mounted must be safe.
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// discard destroys the clone that a note names. A damaged note names none: the pools destroy clones that are not
// recorded, too.
func (c *Creator) discard(ctx context.Context, path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var n note
	if json.Unmarshal(text, &n) != nil {
		return nil
	}
	if err := dataset.CheckFormat("the note "+path, n.Format, noteFormat); err != nil {
		return err
	}
	if _, recorded := c.deps.Cache.Dataset(n.Clone); recorded || n.Clone == uuid.Nil {
		return nil // a clone of a backup is never recorded
	}
	if !c.deps.HasPool(n.Pool) {
		return nil // it was removed, with its data
	}
	pool, err := c.deps.Pools.Online(ctx, n.Pool)
	if err != nil {
		return err
	}
	return storage.Discard(ctx, c.deps.Host, pool, n.Clone)
}

// unmountTries is how often unmount tries to unmount a clone that is in use. Each try takes a tenth of a second. A
// process that is killed can use the clone for some time after the signal.
const unmountTries = 50

// unmount unmounts a clone, if it is mounted.
func unmount(path string) error {
	mounted, err := host.IsMountPoint(path)
	if err != nil || !mounted {
		return err
	}
	for range unmountTries {
		if err = mount.Unmount(path); !errors.Is(err, mount.ErrBusy) {
			break
		}
	}
	switch {
	case errors.Is(err, mount.ErrBusy):
		return fmt.Errorf("the data of a backup: %w (end the processes that use %s)", err, path)
	case err != nil:
		return fmt.Errorf("the data of a backup: %w", err)
	}
	return nil
}
