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

// sessions has the sessions of this process, in memory. A session shows that a caller in this process is alive, so no
// session outlives the process. The keys bound to sessions are listed in the file, so that the next process can
// delete them.
type sessions struct {
	clock clock.Clock

	mu     sync.Mutex
	live   map[string]*session
	ending map[string]bool // ended sessions whose keys may still exist
	wake   chan struct{}   // signals that the next end may have changed
}

type session struct {
	ttl time.Duration
	end time.Duration // end by the steady clock
}

// retryEnd is the pause before another attempt to delete the keys of an ended session.
const retryEnd = time.Second

func newSessions(c clock.Clock) *sessions {
	return &sessions{clock: c, live: map[string]*session{}, ending: map[string]bool{}, wake: make(chan struct{}, 1)}
}

func (s *sessions) add(ttl time.Duration) string {
	id := uuid.NewString()
	s.mu.Lock()
	s.live[id] = &session{ttl, s.clock.Steady() + ttl}
	s.mu.Unlock()
	s.checkNow()
	return id
}

// checkNow makes expire check the sessions now.
func (s *sessions) checkNow() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// alive reports whether a session has not ended. If renew is set, it extends the session. A session whose time has
// passed has ended, even before expire notices it.
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

// end ends a session. It reports whether its keys must still be deleted.
func (s *sessions) end(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[id] != nil {
		delete(s.live, id)
		s.ending[id] = true
	}
	return s.ending[id]
}

func (s *sessions) keysDeleted(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ending, id)
}

// due returns the sessions whose keys must be deleted now, and the time until the next ones. The time is 0 if there are
// none.
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

// Session implements store.Store. All sessions end when the store is closed. It fails with dataset.ErrInvalid for a ttl
// that is not positive.
func (s *Store) Session(ctx context.Context, ttl time.Duration) (string, error) {
	if err := s.open(ctx); err != nil {
		return "", err
	}
	if ttl <= 0 {
		return "", dataset.Errorf(dataset.ErrInvalid, "session of %s: want a positive time", ttl)
	}
	return s.sessions.add(ttl), nil
}

// Renew extends a session.
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
	return fmt.Errorf("session %.40q has ended or never existed: %w", id, store.ErrNotFound)
}

// End ends a session and deletes the keys bound to it. If it fails, the keys are deleted a little later.
func (s *Store) End(ctx context.Context, id string) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	if !s.sessions.end(id) {
		return nil
	}
	err := s.deleteSessionKeys(ctx, id)
	if err != nil {
		s.sessions.checkNow()
	}
	return err
}

func (s *Store) deleteSessionKeys(ctx context.Context, id string) error {
	_, err := s.submit(ctx, &request{end: id})
	if err == nil {
		s.sessions.keysDeleted(id)
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
			// A session whose keys could not be deleted is still due in the next round.
			if err := s.deleteSessionKeys(ctx, id); err != nil && (wait == 0 || wait > retryEnd) {
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
