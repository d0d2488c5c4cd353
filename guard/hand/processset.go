package hand

import "sync"

// processes is a set of processes. The zero value is empty. Safe for concurrent use.
type processes struct {
	mu  sync.Mutex
	set map[processKey]bool
}

// begin adds a process. It returns false if the set contains it already.
func (l *processes) begin(key processKey) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.set[key] {
		return false
	}
	if l.set == nil {
		l.set = map[processKey]bool{}
	}
	l.set[key] = true
	return true
}

// end removes a process.
func (l *processes) end(key processKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.set, key)
}
