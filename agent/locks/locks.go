// Package locks has a lock for each dataset. Whoever changes a dataset, its mounts or its records on this
// host holds the lock of that dataset. Different datasets never wait for each other.
package locks

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

// Set is one lock for each dataset. The zero value is ready. It is safe for concurrent use.
type Set struct {
	// Clock measures how long locks are held. Nil: nobody asks.
	Clock clock.Clock

	mu  sync.Mutex
	all map[uuid.UUID]*lock // of datasets whose lock is held or waited for
}

type lock struct {
	token  chan struct{} // holds one token while the lock is free
	users  int           // who holds the lock, and who waits for it
	urgent int           // how many of those who wait asked with LockUrgent
	holder string        // what the holder does
	taken  bool
	since  time.Duration // when it was taken, by the steady clock
}

// Lock takes the lock of a dataset in order to do what, and returns the function that releases it. It
// fails only if ctx ends first, with ErrPending, and names what the holder does.
func (s *Set) Lock(ctx context.Context, id uuid.UUID, what string) (unlock func(), err error) {
	return s.take(ctx, id, what, 0)
}

// LockUrgent is lock for a caller that should not wait for work that can be done at any time. The holder
// can ask isUrgent and end such work.
func (s *Set) LockUrgent(ctx context.Context, id uuid.UUID, what string) (unlock func(), err error) {
	return s.take(ctx, id, what, 1)
}

// IsUrgent reports whether anybody who asked with LockUrgent waits for the lock of a dataset.
func (s *Set) IsUrgent(id uuid.UUID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.all[id]
	return l != nil && l.urgent > 0
}

func (s *Set) take(ctx context.Context, id uuid.UUID, what string, urgent int) (unlock func(), err error) {
	l := s.join(id, urgent)
	defer s.update(func() { l.urgent -= urgent })
	select {
	case <-l.token:
		s.update(func() {
			l.holder, l.taken = what, true
			if s.Clock != nil {
				l.since = s.Clock.Steady()
			}
		})
		return func() {
			s.update(func() { l.taken = false })
			l.token <- struct{}{}
			s.leave(id, l)
		}, nil
	case <-ctx.Done():
		var holder string
		s.update(func() { holder = l.holder })
		s.leave(id, l)
		return nil, dataset.Errorf(dataset.ErrPending, "%s: waited in vain for the %s that is under way: try again", what, holder)
	}
}

func (s *Set) join(id uuid.UUID, urgent int) *lock {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[uuid.UUID]*lock{}
	}
	l := s.all[id]
	if l == nil {
		l = &lock{token: make(chan struct{}, 1)}
		l.token <- struct{}{}
		s.all[id] = l
	}
	l.users++
	l.urgent += urgent
	return l
}

func (s *Set) leave(id uuid.UUID, l *lock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(s.all, id)
	}
}

func (s *Set) update(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// Users returns how many hold the lock of a dataset or wait for it.
func (s *Set) Users(id uuid.UUID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.all[id]; l != nil {
		return l.users
	}
	return 0
}

// Held returns the datasets whose locks are held.
func (s *Set) Held() (ids []uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, l := range s.all {
		if l.taken {
			ids = append(ids, id)
		}
	}
	return ids
}

// Holder is somebody who holds a lock.
type Holder struct {
	What string        // what the holder does
	For  time.Duration // how long the lock has been held
}

// HeldFor returns the holders of locks that have been held for at least so long, the longest first. now is
// by the steady clock.
func (s *Set) HeldFor(least, now time.Duration) (list []Holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.all {
		if l.taken && now-l.since >= least {
			list = append(list, Holder{l.holder, now - l.since})
		}
	}
	slices.SortFunc(list, func(x, y Holder) int { return cmp.Compare(y.For, x.For) })
	return list
}
