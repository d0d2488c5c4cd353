package operation

import (
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// room has the bytes that the running restores and verifications need in each pool. It is safe for concurrent use.
type room struct {
	mu      sync.Mutex
	pools   map[uuid.UUID]demand
	changes int           // how often pools has changed
	changed chan struct{} // closed at the next change of pools
}

// demand is what the running restores need in one pool.
type demand struct {
	needed        dataset.Size
	verifications int // how many of them are verifications
	unmeasured    int // how many of them are not measured yet: their share of needed is the size of their volume
	// changes is how often the demand in any pool has changed, and changed is closed at the next change.
	changes int
	changed <-chan struct{}
}

func newRoom() *room { return &room{pools: map[uuid.UUID]demand{}, changed: make(chan struct{})} }

// others returns what the restores in a pool need.
func (r *room) others(pool uuid.UUID) demand {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.pools[pool]
	d.changes, d.changed = r.changes, r.changed
	return d
}

// share is what one restore needs in a pool.
type share struct {
	room *room
	pool uuid.UUID
	demand
}

// add adds the share of an operation of the given kind, until release is called. need is what its files need or, if
// unmeasured is set, the size of its volume. If the demand has changed since others returned it, add does nothing, and
// ok is false.
func (r *room) add(pool uuid.UUID, kind dataset.OpKind, need dataset.Size, unmeasured bool, since demand) (s *share,
	ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changes != since.changes {
		return nil, false
	}
	s = &share{room: r, pool: pool, demand: demand{needed: need}}
	if kind == dataset.OpVerify {
		s.verifications = 1
	}
	if unmeasured {
		s.unmeasured = 1
	}
	r.change(pool, s.demand, 1)
	return s, true
}

// measured changes the share to what the files need. It is never raised. Call it at most once, and before release.
func (s *share) measured(need dataset.Size) {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	s.room.change(s.pool, s.demand, -1)
	s.needed, s.unmeasured = min(s.needed, need), 0
	s.room.change(s.pool, s.demand, 1)
}

// size returns the bytes that the files need. It returns 0 if they are not measured.
func (s *share) size() dataset.Size {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	if s.unmeasured > 0 {
		return 0
	}
	return s.needed
}

func (s *share) release() {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	s.room.change(s.pool, s.demand, -1)
}

// change adds a share to the demand in a pool, or removes it if sign is -1. The caller holds mu.
func (r *room) change(pool uuid.UUID, by demand, sign int) {
	d := r.pools[pool]
	d.needed += by.needed * dataset.Size(sign)
	d.verifications += by.verifications * sign
	d.unmeasured += by.unmeasured * sign
	r.pools[pool] = d
	r.changes++
	close(r.changed)
	r.changed = make(chan struct{})
}
