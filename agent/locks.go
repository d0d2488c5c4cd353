package agent

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// locks is a lock for each dataset. The zero value is ready, and knows no time.
type locks struct {
	clock clock.Clock

	mu   sync.Mutex
	held map[uuid.UUID]*keyLock
}

type keyLock struct {
	ch     chan struct{} // holds one token while the lock is free
	refs   int
	urgent int    // of those who wait, how many would have the holder end what can be ended
	holder string // what the holder does, under locks.mu
	taken  bool
	since  time.Duration // when it was taken, by the steady clock
}

// lock takes the lock of id to do what, and returns what gives it back. It errs
// only when ctx ends first: ErrPending, naming what the holder does.
func (l *locks) lock(ctx context.Context, id uuid.UUID, what string) (unlock func(), err error) {
	return l.wait(ctx, id, what, 0)
}

// lockSoon is lock for who is not to wait for what can be done at any time: see wanted.
func (l *locks) lockSoon(ctx context.Context, id uuid.UUID, what string) (unlock func(), err error) {
	return l.wait(ctx, id, what, 1)
}

// wanted tells whether somebody waits for the lock of id who is not to.
func (l *locks) wanted(id uuid.UUID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.held[id]
	return k != nil && k.urgent > 0
}

func (l *locks) wait(ctx context.Context, id uuid.UUID, what string, urgent int) (unlock func(), err error) {
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
	k.urgent += urgent
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		k.urgent -= urgent
	}()

	release := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.refs--; k.refs == 0 {
			delete(l.held, id)
		}
	}
	select {
	case <-k.ch:
		l.take(k, what)
		return func() { l.give(k); k.ch <- struct{}{}; release() }, nil
	case <-ctx.Done():
		l.mu.Lock()
		holder := k.holder
		l.mu.Unlock()
		release()
		return nil, dataset.Errorf(dataset.ErrPending, "%s: waited in vain for the %s that is under way: try again", what, holder)
	}
}

// take notes that k was taken to do what.
func (l *locks) take(k *keyLock, what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k.holder, k.taken = what, true
	if l.clock != nil {
		k.since = l.clock.Steady()
	}
}

// give notes that k is free.
func (l *locks) give(k *keyLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k.taken = false
}

// under returns the locks that are taken.
func (l *locks) under() (ids []uuid.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, k := range l.held {
		if k.taken {
			ids = append(ids, id)
		}
	}
	return ids
}

// held is what somebody does with a lock, and for how long.
type held struct {
	what string
	held time.Duration
}

// longer returns the locks that were taken so long ago, the first one first.
func (l *locks) longer(than, now time.Duration) (list []held) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.held {
		if k.taken && now-k.since >= than {
			list = append(list, held{k.holder, now - k.since})
		}
	}
	slices.SortFunc(list, func(x, y held) int { return cmp.Compare(y.held, x.held) })
	return list
}
