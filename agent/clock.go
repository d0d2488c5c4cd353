package agent

import "context"

// clockKey holds the highest clock of control's store that this node has heard of, by
// which it sees that the store went back, whatever of it was lost; see api.Sync. In a
// cluster in which nothing changes it is not written.
const clockKey = "clock"

// raiseClock takes in a clock that control told.
func (a *Agent) raiseClock(n uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clock = max(a.clock, n)
}

// keepClock puts it on disk.
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

// mendStore is the command that brings a store up to date which is not to be believed:
// one with a clock is that of several hosts.
func (a *Agent) mendStore() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.clock != 0 {
		return "drover store recover"
	}
	return "drover store rebuild"
}
