package control

import (
	"context"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
)

// feedSize is how many changes the feed remembers; who asks for older ones is
// told everything.
const feedSize = 8192

// feed tells which datasets changed, in the order in which this service
// committed them. What they are now is read from the store, so the order in
// which readers learn of two changes to one dataset does not matter.
type feed struct {
	mu      sync.Mutex
	first   uint64 // revision of changes[0]
	next    uint64
	changes []change
	waiting chan struct{} // closed at the next change
	closed  bool
}

type change struct {
	nodes   map[uuid.UUID]bool
	dataset []uuid.UUID
	ops     []uuid.UUID
}

// newFeed starts at a revision that no earlier run of the service has given
// out, so that a reader from then is told everything.
func newFeed(start uint64) *feed {
	return &feed{first: start, next: start, waiting: make(chan struct{})}
}

func (f *feed) publish(nodes map[uuid.UUID]bool, datasets, ops []uuid.UUID) {
	if len(datasets) == 0 && len(ops) == 0 && len(nodes) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changes = append(f.changes, change{nodes, datasets, ops})
	f.next++
	if len(f.changes) > 2*feedSize {
		f.changes = append([]change(nil), f.changes[feedSize:]...)
		f.first += feedSize
	}
	if !f.closed {
		close(f.waiting)
		f.waiting = make(chan struct{})
	}
}

// since returns what changed for node after rev. full: rev is unknown here,
// look at everything. The channel is closed at the next change of anything.
func (f *feed) since(node uuid.UUID, rev uint64) (next uint64, datasets []uuid.UUID, any, full bool, wait <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if rev < f.first || rev > f.next {
		return f.next, nil, true, true, f.waiting
	}
	seen := map[uuid.UUID]bool{}
	for _, c := range f.changes[rev-f.first:] {
		if !c.nodes[node] {
			continue
		}
		any = true
		for _, id := range c.dataset {
			if !seen[id] {
				seen[id] = true
				datasets = append(datasets, id)
			}
		}
	}
	return f.next, datasets, any, false, f.waiting
}

// changed returns a channel that is closed at the next change.
func (f *feed) changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waiting
}

func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		close(f.waiting)
	}
}

// events keeps the newest events for those who follow.
type events struct {
	mu      sync.Mutex
	ring    []api.Event
	next    uint64
	waiting chan struct{}
	closed  bool
}

const eventsKept = 1024

func newEvents() *events { return &events{next: 1, waiting: make(chan struct{})} }

func (e *events) publish(ev api.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ev.ID = e.next
	e.next++
	e.ring = append(e.ring, ev)
	if len(e.ring) > 2*eventsKept {
		e.ring = append([]api.Event(nil), e.ring[eventsKept:]...)
	}
	if !e.closed {
		close(e.waiting)
		e.waiting = make(chan struct{})
	}
}

func (e *events) after(id uint64) ([]api.Event, <-chan struct{}, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, ev := range e.ring {
		if ev.ID > id {
			return append([]api.Event(nil), e.ring[i:]...), e.waiting, e.closed
		}
	}
	return nil, e.waiting, e.closed
}

func (e *events) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.closed = true
		close(e.waiting)
	}
}

// Events calls fn for each event after the given ID: those that are kept and,
// with follow, those to come, until ctx ends, fn errs or the service closes.
func (s *Service) Events(ctx context.Context, after uint64, follow bool, fn func(api.Event) error) error {
	for {
		list, wait, closed := s.events.after(after)
		for _, ev := range list {
			if err := fn(ev); err != nil {
				return err
			}
			after = ev.ID
		}
		if !follow || closed {
			return nil
		}
		if len(list) > 0 {
			continue
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// wake lets those who wait for an operation look again.
func (f *feed) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		close(f.waiting)
		f.waiting = make(chan struct{})
	}
}
