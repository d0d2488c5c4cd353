package quota

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/droverhq/drover/internal/linux/btrfsctl"
)

// The counters of a subvolume are in its quota group (qgroup), which has the number of the subvolume.

// NotesDir is the directory of the pool with the notes about destroyed subvolumes. A note is an empty file, named by
// the number of the subvolume. It exists until the counters of the subvolume are removed. A note reaches the disk
// before its subvolume is destroyed, or in the same transaction.
const NotesDir = "qgroups"

// drainTimeout is how long the removal of a pool waits for the kernel.
const drainTimeout = 10 * time.Second

// Counters removes the quota groups that the kernel keeps of destroyed subvolumes: see btrfsctl.RemoveQgroup. It is
// safe for concurrent use.
type Counters struct {
	// Enabled is false if the pool has no quotas. All methods do nothing then.
	Enabled bool
	// Enter opens the directory of the pool.
	Enter func() (*os.Root, error)

	// destroying is held for reading while subvolumes are destroyed, and for writing while counters are removed.
	destroying sync.RWMutex
}

// Destroying prevents the removal of counters until done is called. Meanwhile the caller destroys subvolumes. It calls
// Record for each subvolume before it destroys it.
func (c *Counters) Destroying() (done func()) {
	c.destroying.RLock()
	return c.destroying.RUnlock
}

// Record writes a note about a subvolume that is about to be destroyed. If the note cannot be written, the counters of
// the subvolume are never removed. That is acceptable, so Record only fails if it cannot open the pool.
func (c *Counters) Record(id uint64) error {
	if !c.Enabled {
		return nil
	}
	root, err := c.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	name := filepath.Join(NotesDir, strconv.FormatUint(id, 10))
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		if err = root.Mkdir(NotesDir, 0o700); err == nil || errors.Is(err, os.ErrExist) {
			f, err = root.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
		}
	}
	if err != nil {
		return nil
	}
	return f.Close()
}

// Collect removes the counters of noted subvolumes that the kernel has destroyed. It does nothing while a subvolume is
// being destroyed. A later call removes the counters of the other noted subvolumes.
func (c *Counters) Collect() {
	if c.Enabled && c.destroying.TryLock() {
		defer c.destroying.Unlock()
		_, _ = c.collect()
	}
}

// Drain removes the counters as Collect does. It waits until the kernel has destroyed all noted subvolumes, but at most
// for drainTimeout. After that it returns nil, and the remaining counters stay.
func (c *Counters) Drain(ctx context.Context) error {
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
func (c *Counters) forceCleanup() error {
	return c.withPool(func(_ *os.Root, dir *os.File) error { return btrfsctl.StartCleanup(dir) })
}

// collect removes the counters of the subvolumes that the kernel has destroyed, and their notes. It returns the number
// of notes that are left.
func (c *Counters) collect() (remaining int, err error) {
	err = c.withPool(func(root *os.Root, dir *os.File) error {
		notes, err := root.Open(NotesDir)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer notes.Close()
		names, err := notes.Readdirnames(-1)
		if err != nil {
			return err
		}
		for _, name := range names {
			id, err := strconv.ParseUint(name, 10, 64)
			if err != nil {
				continue
			}
			done, err := removeCounters(dir, id)
			if err != nil {
				return err
			}
			if !done {
				remaining++
			} else if err := root.Remove(filepath.Join(NotesDir, name)); err != nil {
				return err
			}
		}
		return nil
	})
	return remaining, err
}

// withPool calls do with the directory of the pool.
func (c *Counters) withPool(do func(root *os.Root, dir *os.File) error) error {
	root, err := c.Enter()
	if err != nil {
		return err
	}
	defer root.Close()
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	return do(root, dir)
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
