package claims

import "sync"

// Moves counts the datasets that go from one place back to an earlier one. Who looks for something at one
// place after the other, in the order in which all else moves on, may have missed it if the count
// is another one afterwards. The zero value is ready. Safe for concurrent use.
type Moves struct {
	mu sync.RWMutex
	n  int
}

// Back does one such move.
func (m *Moves) Back(move func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n++
	return move()
}

// Count is how many there were. None was between two equal ones, not in part either.
func (m *Moves) Count() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.n
}
