package control

import (
	"context"
	"sync"
	"time"

	"github.com/droverhq/drover/control/api"
)

// eventsKept is how many events can be read again at least.
const eventsKept = 1024

// events keeps the newest events for those who follow.
type events struct {
	mu      sync.Mutex
	ring    []api.Event // with IDs one after another
	next    uint64
	waiting chan struct{} // closed at the next event
}

// newEvents numbers from the time on, so that who goes on after an event of an
// earlier run misses none of this one.
func newEvents(now time.Time) *events {
	return &events{next: uint64(max(now.UnixMicro(), 1)), waiting: make(chan struct{})}
}

func (e *events) publish(evs ...api.Event) {
	if len(evs) == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range evs {
		ev.ID = e.next
		e.next++
		e.ring = append(e.ring, ev)
	}
	if over := len(e.ring) - eventsKept; over > eventsKept {
		e.ring = append([]api.Event(nil), e.ring[over:]...)
	}
	close(e.waiting)
	e.waiting = make(chan struct{})
}

// after returns the events after an ID; all that are kept when it is one that
// was not given out yet, as after a restart with a clock set back.
func (e *events) after(id uint64) ([]api.Event, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	first := e.next - uint64(len(e.ring))
	skip := uint64(0)
	if id >= first && id < e.next {
		skip = id - first + 1
	}
	return append([]api.Event(nil), e.ring[skip:]...), e.waiting
}

// Events calls fn for each event after the given ID: those that are kept and,
// with follow, those to come, until ctx ends, fn errs or the service closes.
func (s *Service) Events(ctx context.Context, after uint64, follow bool, fn func(api.Event) error) error {
	for {
		list, wait := s.events.after(after)
		for _, ev := range list {
			if err := fn(ev); err != nil {
				return err
			}
			after = ev.ID
		}
		switch {
		case !follow:
			return nil
		case len(list) > 0:
			continue
		}
		select {
		case <-wait:
		case <-s.quit:
			return ctx.Err() // which may have ended as well
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
