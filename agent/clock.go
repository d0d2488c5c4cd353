package agent

import "context"

// clockKey is the key of the highest clock of control's store that this node has heard of. With it the node
// notices that the store was restored from a backup, whatever the backup lacks: see api.Sync. It is not written
// while nothing changes in the cluster.
const clockKey = "clock"

// raiseClock applies a clock that control reported.
func (a *Agent) raiseClock(n uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clock = max(a.clock, n)
}

// keepClock writes the clock to disk.
func (a *Agent) keepClock(ctx context.Context) error {
	a.mu.Lock()
	n, on := a.clock, a.clockOnDisk
	a.mu.Unlock()
	if n == on {
		return nil
	}
	if err := a.DB.Put(ctx, map[string]any{clockKey: n}); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clockOnDisk = n
	return nil
}

// mendStore returns the command that brings an inconsistent store up to date. A store with a clock is that of
// several hosts.
func (a *Agent) mendStore() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.clock != 0 {
		return "drover store recover"
	}
	return "drover store rebuild"
}
