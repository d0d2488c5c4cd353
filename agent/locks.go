package agent

import (
	"context"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// locks is a lock for each dataset. The zero value is ready.
type locks struct {
	mu   sync.Mutex
	held map[uuid.UUID]*keyLock
}

type keyLock struct {
	ch     chan struct{} // holds one token while the lock is free
	refs   int
	holder string // what the holder does, under locks.mu
}

// lock takes the lock of id to do what, and returns what gives it back. It errs
// only when ctx ends first: ErrPending, naming what the holder does.
func (l *locks) lock(ctx context.Context, id uuid.UUID, what string) (unlock func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[uuid.UUID]*keyLock{}
	}
	k := l.held[id]
	if k == nil {
		k = &keyLock{ch: make(chan struct{}, 1)}
		k.ch <- struct{}{}
		l.held[id] = k
	}
	k.refs++
	l.mu.Unlock()

	release := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.refs--; k.refs == 0 {
			delete(l.held, id)
		}
	}
	select {
	case <-k.ch:
		l.name(k, what)
		return func() { k.ch <- struct{}{}; release() }, nil
	case <-ctx.Done():
		holder := l.name(k, "")
		release()
		return nil, dataset.Errorf(dataset.ErrPending, "%s: waited in vain for the %s that is under way: try again", what, holder)
	}
}

// name says what the holder of k does, when what is not empty, and returns it.
func (l *locks) name(k *keyLock, what string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if what != "" {
		k.holder = what
	}
	return k.holder
}
