package shelf

import (
	"sync"

	"github.com/google/uuid"
)

// locks keeps Reap away from the datasets that calls are at work on, which it
// passes over, and calls from the one that Reap is at, for which they wait.
// Calls do not keep each other out: that is their caller's part.
type locks struct {
	mu   sync.Mutex
	held map[uuid.UUID]*lock
}

type lock struct {
	sync.RWMutex
	users int
}

// share notes a call at work on a dataset, until the returned function is called.
func (l *locks) share(id uuid.UUID) (done func()) {
	l.mu.Lock()
	k := l.held[id]
	if k == nil {
		k = &lock{}
		l.held[id] = k
	}
	k.users++
	l.mu.Unlock()
	k.RLock()
	return func() {
		k.RUnlock()
		l.leave(id, k)
	}
}

// claim takes a dataset that nobody is at work on, until the returned function
// is called; not ok when somebody is.
func (l *locks) claim(id uuid.UUID) (done func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[id] != nil {
		return nil, false
	}
	k := &lock{users: 1}
	k.Lock()
	l.held[id] = k
	return func() {
		k.Unlock()
		l.leave(id, k)
	}, true
}

func (l *locks) leave(id uuid.UUID, k *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.held, id)
	}
}
