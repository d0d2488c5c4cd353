package mounting

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// A filesystem that could not write its journal accepts no more writes, even when the disk works again: XFS shuts
// down and answers EIO, ext4 and btrfs become read-only. Only a new mount of the filesystem ends that state. A volume
// gets a new mount when its last container has stopped and the next one starts.

// Disks finds out which mounted volumes accept no more writes after a disk error. Its methods are safe for concurrent
// use.
type Disks struct {
	*Mounts

	mu     sync.Mutex
	failed map[uuid.UUID]bool // volumes with a disk error at the last look
	table  mount.Mounts       // the last mount table; used until the steady clock reaches until
	until  time.Duration
}

// tableAge is how long a mount table is used for, so that a look at many volumes reads it once.
const tableAge = time.Second

// Examine returns an error if the filesystem that is mounted at path accepts no writes, although the dataset is not
// read-only. It also returns an error if the disk of a read-only dataset fails, and if it cannot read the mount table.
// pool.IsDiskError tells a failing disk from the latter. Examine writes nothing. So it does not notice an ext4 of Linux
// 6.12 to 6.14 that accepts no more writes: these versions do not report that state anywhere. If the disk hangs,
// Examine hangs.
func (v *Disks) Examine(d dataset.Dataset, path string) error {
	var st unix.Stat_t
	var fs unix.Statfs_t
	err := unix.Stat(path, &st)
	if err == nil {
		err = unix.Statfs(path, &fs)
	}
	switch {
	case pool.IsDiskError(err):
		return readOnlyError(err)
	case err != nil || d.ReadOnly:
		return nil
	case fs.Flags&unix.ST_RDONLY == 0 && fs.Type != unix.EXT4_SUPER_MAGIC:
		return nil // since Linux 6.12 an ext4 does not set the flag
	}
	table, err := v.mounts(v.Clock.Steady())
	if err != nil {
		return fmt.Errorf("cannot check whether its filesystem is writable: %w", err)
	}
	if e := table.At(path); e != nil {
		// The options of the filesystem count, not those of the mount: a fence makes the mount read-only.
		for _, option := range strings.Split(e.VFSOptions, ",") {
			if slices.Contains([]string{"ro", "emergency_ro", "shutdown"}, option) {
				return readOnlyError(fmt.Errorf("mounted %s: %w", option, unix.EROFS))
			}
		}
	}
	return nil
}

func readOnlyError(err error) error {
	return fmt.Errorf("its filesystem is read-only since a disk error (%w; see dmesg): stop its containers, and "+
		"start them again once the disk works; data that was flushed before the error is kept", err)
}

func (v *Disks) mounts(now time.Duration) (mount.Mounts, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.table != nil && now < v.until {
		return v.table, nil
	}
	table, err := mount.Table()
	if err == nil {
		v.table, v.until = table, now+tableAge
	}
	return table, err
}

// DropTable drops the last mount table. It is called after a mount or an unmount.
func (v *Disks) DropTable() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.table = nil
}

// setFailed records whether a look at a volume found a disk error, and reports whether that changed.
func (v *Disks) setFailed(id uuid.UUID, failed bool) (changed bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if changed = v.failed[id] != failed; !changed {
		return false
	}
	if v.failed == nil {
		v.failed = map[uuid.UUID]bool{}
	}
	if v.failed[id] = failed; !failed {
		delete(v.failed, id)
	}
	return true
}

// Check is like Examine for a volume whose pool answers, because Examine hangs as long as the disk does. It records the
// outcome as Record does. If the pool is offline, it returns nil: the pool itself is reported.
func (v *Disks) Check(ctx context.Context, d dataset.Dataset, path string) error {
	if _, err := v.Pools.Get(d.Pool); err != nil {
		return nil
	}
	var found error
	if err := v.Pools.Ask(ctx, d.Pool, func(backends.Pool) {
		found = v.Examine(d, path)
	}); err != nil {
		return nil
	}
	v.Record(d, found)
	return found
}

// Record records the outcome of a look at a volume. A new disk error is logged, and the volume's pool is probed,
// because its whole disk may fail. An error that is not of the disk changes nothing: it does not say whether the disk
// works.
func (v *Disks) Record(d dataset.Dataset, err error) {
	failed := pool.IsDiskError(err)
	if err != nil && !failed {
		return
	}
	if !v.setFailed(d.ID, failed) {
		return
	}
	if !failed {
		v.LogOf(v.Ctx, d).Info("volume has no disk error any more")
		return
	}
	v.LogOf(v.Ctx, d).Error("volume has a disk error: " + err.Error())
	v.Pools.Suspect(d.Pool, err)
}
