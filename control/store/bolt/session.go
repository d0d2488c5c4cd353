package bolt

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// sessions are kept in memory: they say that this process's callers live, and
// none outlives it. The keys bound to them are in the file, so that the next process finds the keys that the
// last one left bound.
type sessions struct {
	clock clock.Clock

	mu     sync.Mutex
	live   map[string]*session
	ending map[string]bool // dead, but their keys may still be there
	wake   chan struct{}   // the soonest end may have changed
}

type session struct {
	ttl time.Duration
	end time.Duration // by the steady clock
}

// retryEnd is how soon the deletion of a dead session's keys is tried again.
const retryEnd = time.Second

func newSessions(c clock.Clock) *sessions {
	return &sessions{clock: c, live: map[string]*session{}, ending: map[string]bool{}, wake: make(chan struct{}, 1)}
}

func (s *sessions) add(ttl time.Duration) string {
	id := uuid.NewString()
	s.mu.Lock()
	s.live[id] = &session{ttl, s.clock.Steady() + ttl}
	s.mu.Unlock()
	s.look()
	return id
}

// look has the sessions looked at again now.
func (s *sessions) look() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// alive reports whether a session is still there, and with renew puts off its
// end. A session whose time has passed is dead, even before that is noticed.
func (s *sessions) alive(id string, renew bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	live, now := s.live[id], s.clock.Steady()
	if live == nil || now >= live.end {
		return false
	}
	if renew {
		live.end = now + live.ttl
	}
	return true
}

// kill makes a session dead and reports whether its keys are still to go.
func (s *sessions) kill(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[id] != nil {
		delete(s.live, id)
		s.ending[id] = true
	}
	return s.ending[id]
}

func (s *sessions) buried(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ending, id)
}

// due returns the sessions whose keys must be deleted now, and the time until the next ones; 0: none is left.
func (s *sessions) due() (dead []string, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Steady()
	for id, live := range s.live {
		if left := live.end - now; left <= 0 {
			delete(s.live, id)
			s.ending[id] = true
		} else if wait == 0 || left < wait {
			wait = left
		}
	}
	for id := range s.ending {
		dead = append(dead, id)
	}
	return dead, wait
}

// Session opens a session. It ends when the store is closed, at the latest.
// dataset.ErrInvalid for a ttl that is not positive.
func (s *Store) Session(ctx context.Context, ttl time.Duration) (string, error) {
	if err := s.open(ctx); err != nil {
		return "", err
	}
	if ttl <= 0 {
		return "", dataset.Errorf(dataset.ErrInvalid, "session of %s: want a positive time", ttl)
	}
	return s.sessions.add(ttl), nil
}

// Renew puts off the end of a session.
func (s *Store) Renew(ctx context.Context, id string) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	if !s.sessions.alive(id, true) {
		return noSession(id)
	}
	return nil
}

func noSession(id string) error {
	return fmt.Errorf("session %.40q has ended or never was: %w", id, store.ErrNotFound)
}

// End ends a session and deletes the keys bound to it. After an error they go
// a little later.
func (s *Store) End(ctx context.Context, id string) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	if !s.sessions.kill(id) {
		return nil
	}
	err := s.bury(ctx, id)
	if err != nil {
		s.sessions.look()
	}
	return err
}

func (s *Store) bury(ctx context.Context, id string) error {
	_, err := s.submit(ctx, &request{end: id})
	if err == nil {
		s.sessions.buried(id)
	}
	return err
}

// expire ends sessions when their time has come, until the store closes.
func (s *Store) expire() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		dead, wait := s.sessions.due()
		for _, id := range dead {
			// What fails is still due at the next round.
			if err := s.bury(ctx, id); err != nil && (wait == 0 || wait > retryEnd) {
				wait = retryEnd
			}
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = s.sessions.clock.After(wait)
		}
		select {
		case <-timer:
		case <-s.sessions.wake:
		case <-s.closing:
			return
		}
	}
}
