package btrfs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/safefile"
)

// The counters of a subvolume are in its quota group (qgroup), which has the number of the subvolume.

// notesDir is the directory of the pool with the notes about destroyed subvolumes. A note is an empty file, named by
// the number of the subvolume. It exists until the counters of the subvolume are removed. A note reaches the disk
// before its subvolume is destroyed, or in the same transaction.
const notesDir = "qgroups"

// drainTimeout is how long the removal of a pool waits for the kernel.
const drainTimeout = 10 * time.Second

// counters removes the quota groups that the kernel keeps of destroyed subvolumes: see btrfsctl.RemoveQgroup. It is
// safe for concurrent use.
type counters struct {
	// Enabled is false if the pool has no quotas. All methods do nothing then.
	Enabled bool
	// Enter opens the directory of the pool.
	Enter func() (safefile.Dir, error)

	// destroying is held for reading while subvolumes are destroyed, and for writing while counters are removed.
	destroying sync.RWMutex
}

// Destroying prevents the removal of counters until done is called. Meanwhile the caller destroys subvolumes. It calls
// Record for each subvolume before it destroys it.
func (c *counters) Destroying() (done func()) {
	c.destroying.RLock()
	return c.destroying.RUnlock
}

// Record writes a note about a subvolume that is about to be destroyed. If the note cannot be written, the counters of
// the subvolume are never removed. That is acceptable, so Record only fails if it cannot open the pool.
func (c *counters) Record(id uint64) error {
	if !c.Enabled {
		return nil
	}
	root, err := c.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	name := filepath.Join(notesDir, strconv.FormatUint(id, 10))
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE)
	if errors.Is(err, os.ErrNotExist) {
		if err = root.Mkdir(notesDir); err == nil || errors.Is(err, os.ErrExist) {
			f, err = root.OpenFile(name, os.O_WRONLY|os.O_CREATE)
		}
	}
	if err != nil {
		return nil
	}
	return f.Close()
}

// Collect removes the counters of noted subvolumes that the kernel has destroyed. It does nothing while a subvolume is
// being destroyed. A later call removes the counters of the other noted subvolumes.
func (c *counters) Collect() {
	if c.Enabled && c.destroying.TryLock() {
		defer c.destroying.Unlock()
		_, _ = c.collect()
	}
}

// Drain removes the counters as Collect does. It waits until the kernel has destroyed all noted subvolumes, but at most
// for drainTimeout. After that it returns nil, and the remaining counters stay.
func (c *counters) Drain(ctx context.Context) error {
	if !c.Enabled {
		return nil
	}
	c.destroying.Lock()
	defer c.destroying.Unlock()
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	for {
		remaining, err := c.collect()
		if err != nil || remaining == 0 || ctx.Err() != nil {
			return err
		}
		if err := c.forceCleanup(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// forceCleanup makes the kernel destroy subvolumes without delay.
func (c *counters) forceCleanup() error {
	root, err := c.Enter()
	if err != nil {
		return err
	}
	return errors.Join(btrfsctl.StartCleanup(root.File), root.Close())
}

// collect removes the counters of the subvolumes that the kernel has destroyed, and their notes. It returns the number
// of notes that are left.
func (c *counters) collect() (remaining int, err error) {
	root, err := c.Enter()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	names, err := root.Names(notesDir)
	if err != nil {
		return 0, safefile.AbsentIsFine(err)
	}
	for _, name := range names {
		id, err := strconv.ParseUint(name, 10, 64)
		if err != nil {
			continue
		}
		done, err := removeCounters(root.File, id)
		if err != nil {
			return remaining, err
		}
		if !done {
			remaining++
		} else if err := root.Remove(filepath.Join(notesDir, name)); err != nil {
			return remaining, err
		}
	}
	return remaining, nil
}

// removeCounters removes the counters of a destroyed subvolume. It returns false if the kernel has not destroyed it
// yet. A subvolume with this number may exist, because the noted subvolume was not destroyed or because a later one has
// its number. Then the counters stay, and removeCounters returns true.
func removeCounters(dir *os.File, id uint64) (done bool, err error) {
	state, err := btrfsctl.DeletionStateOf(dir, id)
	if err != nil || state != btrfsctl.Deleted {
		return state == btrfsctl.NotDeleted, err
	}
	return btrfsctl.RemoveQgroup(dir, id)
}
