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

// add adds the bytes of an operation of the given kind to those that are needed in a pool, until release is called. If
// the demand has changed since others returned it, add does nothing, and ok is false.
func (r *room) add(pool uuid.UUID, kind dataset.OpKind, need dataset.Size, since demand) (release func(), ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changes != since.changes {
		return nil, false
	}
	verifications := 0
	if kind == dataset.OpVerify {
		verifications = 1
	}
	r.change(pool, need, verifications)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.change(pool, -need, -verifications)
	}, true
}

// change changes the demand in a pool. The caller holds mu.
func (r *room) change(pool uuid.UUID, needed dataset.Size, verifications int) {
	d := r.pools[pool]
	d.needed += needed
	d.verifications += verifications
	r.pools[pool] = d
	r.changes++
	close(r.changed)
	r.changed = make(chan struct{})
}
