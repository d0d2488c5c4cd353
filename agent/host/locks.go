package host

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

// Set is one lock for each dataset, or for each other UUID that a caller uses. The zero value is ready. It is safe for
// concurrent use.
type Set struct {
	// Clock measures how long locks are held. If it is nil, HeldFor must not be called.
	Clock clock.Clock

	mu  sync.Mutex
	all map[uuid.UUID]*lock // of datasets whose lock is held or waited for
}

// lock is the state of one lock. Set.mu guards all fields but token.
type lock struct {
	token chan struct{} // holds one token while the lock is free
	users int           // the number of callers that hold the lock or wait for it
	work  string        // what the holder does, for error messages
	held  bool
	since time.Duration // the steady time at which the lock was taken
}

// Lock takes the lock of a dataset and returns the function that releases it, to be called once. what describes the
// caller's work for error messages. If ctx ends while Lock waits, Lock fails with ErrPending, and the error describes
// the holder's work. A free lock is taken even if ctx has ended.
func (s *Set) Lock(ctx context.Context, id uuid.UUID, what string) (unlock func(), err error) {
	l := s.join(id)
	select {
	case <-l.token: // take a free lock even if ctx has ended
		return s.hold(id, l, what), nil
	default:
	}
	select {
	case <-l.token:
		return s.hold(id, l, what), nil
	case <-ctx.Done():
		var work string
		s.update(func() { work = l.work })
		s.leave(id, l)
		return nil, dataset.Errorf(dataset.ErrPending, "%s: the %s in progress did not end in time: try again",
			what, work)
	}
}

// hold records the holder of a lock whose token was taken, and returns the function that releases the lock.
func (s *Set) hold(id uuid.UUID, l *lock, what string) (unlock func()) {
	s.update(func() {
		l.work, l.held = what, true
		if s.Clock != nil {
			l.since = s.Clock.Steady()
		}
	})
	return func() {
		s.update(func() { l.held = false })
		l.token <- struct{}{}
		s.leave(id, l)
	}
}

func (s *Set) join(id uuid.UUID) *lock {
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

// Users returns the number of callers that hold the lock of a dataset or wait for it. Only tests use it.
func (s *Set) Users(id uuid.UUID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.all[id]; l != nil {
		return l.users
	}
	return 0
}

// Locked returns the UUIDs whose locks are held: of datasets, of pools, and uuid.Nil.
func (s *Set) Locked() (ids []uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, l := range s.all {
		if l.held {
			ids = append(ids, id)
		}
	}
	return ids
}

// Holder describes a lock that is held.
type Holder struct {
	What string        // what the holder does
	For  time.Duration // how long the lock has been held
}

// HeldFor returns the locks that have been held for at least the duration least, the longest-held first. now is the
// current steady time of Clock.
func (s *Set) HeldFor(least, now time.Duration) (list []Holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.all {
		if l.held && now-l.since >= least {
			list = append(list, Holder{l.work, now - l.since})
		}
	}
	slices.SortFunc(list, func(x, y Holder) int { return cmp.Compare(y.For, x.For) })
	return list
}
