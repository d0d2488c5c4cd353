package shelf

import "sync"

// moves counts how often a dataset was moved back to an earlier place. Normally datasets move through the places in one
// order, so a search of the places in that order finds each dataset. A move back can make a search miss it. If Count
// differs before and after a search, repeat the search. The zero value is ready for use. Safe for concurrent use.
type moves struct {
	mu sync.RWMutex
	n  int
}

// MoveBack performs one move to an earlier place.
func (m *moves) MoveBack(move func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n++
	return move()
}

// Count returns the number of moves so far. If two calls return the same number, no move was in progress at any time
// between the two calls.
func (m *moves) Count() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.n
}
