package host

import (
	"maps"
	"slices"
	"sync"

	"github.com/google/uuid"
)

// News collects the changes that the next heartbeat reports. Components add changes, and the heartbeat takes them. It
// is safe for concurrent use.
type News struct {
	mu      sync.Mutex
	changed map[uuid.UUID]bool
	soon    chan struct{} // holds one token while a heartbeat is wanted
}

// NewNews returns empty news.
func NewNews() *News {
	return &News{changed: map[uuid.UUID]bool{}, soon: make(chan struct{}, 1)}
}

// Changed makes the next heartbeat report the status of a dataset, and requests that it is sent at once.
func (n *News) Changed(id uuid.UUID) {
	n.mu.Lock()
	n.changed[id] = true
	n.mu.Unlock()
	n.Soon()
}

// Soon requests that a heartbeat is sent at once. Each heartbeat reports the pools.
func (n *News) Soon() {
	select {
	case n.soon <- struct{}{}:
	default:
	}
}

// Wanted returns a channel that receives a value when a heartbeat should be sent at once.
func (n *News) Wanted() <-chan struct{} { return n.soon }

// Take returns the datasets that have changed since the last call.
func (n *News) Take() []uuid.UUID {
	n.mu.Lock()
	defer n.mu.Unlock()
	ids := slices.Collect(maps.Keys(n.changed))
	clear(n.changed)
	return ids
}
