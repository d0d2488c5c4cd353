package controlsync

import (
	"context"
	"sync"

	"github.com/droverhq/drover/agent/host"
)

// ClockKey is the key of the highest clock of control's store that this node has received. A lower clock shows that the
// store was restored from a backup, even if the backup lacks no record of this node: see api.Sync. The key is not
// written while nothing changes in the cluster.
const ClockKey = "clock"

// StoreClock is the highest clock of control's store that this node has received. Its methods are safe for concurrent
// use.
type StoreClock struct {
	db host.DB

	mu     sync.Mutex
	now    uint64
	onDisk uint64
}

// Load reads the clock from disk.
func (c *StoreClock) Load(ctx context.Context) error {
	if _, err := c.db.Get(ctx, ClockKey, &c.now); err != nil {
		return err
	}
	c.onDisk = c.now
	return nil
}

// Now returns the highest clock that this node has received, or 0.
func (c *StoreClock) Now() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Raise applies a clock that control reported.
func (c *StoreClock) Raise(n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = max(c.now, n)
}

// Save writes the clock to disk. Idempotent.
func (c *StoreClock) Save(ctx context.Context) error {
	c.mu.Lock()
	n, on := c.now, c.onDisk
	c.mu.Unlock()
	if n == on {
		return nil
	}
	if err := c.db.Put(ctx, map[string]any{ClockKey: n}); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onDisk = n
	return nil
}
