package control

import (
	"encoding/binary"
	"sync"

	"github.com/google/uuid"
)

// feedSize is how many changes the feed remembers at least; who asks for older
// ones is told to look at everything.
const feedSize = 8192

// feed tells which datasets changed on which node, in the order in which this
// service committed them. What they are now is read from the store, so the
// order in which readers learn of two changes to one dataset does not matter.
type feed struct {
	mu      sync.Mutex
	first   uint64 // revision before changes[0]
	changes []change
	bells   map[uuid.UUID]*bell
	ops     uint64 // how many changes of operations were told of
}

// change is one dataset of one node; a nil dataset: the node's work changed. None of either: who
// does the background work is to look at everything.
type change struct{ node, dataset uuid.UUID }

// bell rings once for all who wait for one node or operation.
type bell struct {
	rung    chan struct{}
	waiters int
}

// newFeed starts at a revision that no other run of the service is likely to be
// near, so that a reader who comes from one is told everything. Revisions stay
// below 2^53: some readers of JSON have no larger whole numbers.
func newFeed() *feed {
	id := uuid.New()
	return &feed{first: 1 + binary.BigEndian.Uint64(id[8:])>>12, bells: map[uuid.UUID]*bell{}}
}

// publish tells of one transaction.
func (f *feed) publish(t tiding) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range t.Nodes {
		for _, d := range t.Datasets {
			f.changes = append(f.changes, change{n, d})
		}
		if len(t.Datasets) == 0 {
			f.changes = append(f.changes, change{node: n})
		}
		if !t.Answered {
			f.ring(n)
		}
	}
	if t.House {
		f.changes = append(f.changes, change{})
	}
	f.ops += uint64(len(t.Ops))
	for _, op := range t.Ops {
		f.ring(op)
	}
	if over := len(f.changes) - feedSize; over > feedSize {
		f.first += uint64(over)
		f.changes = append([]change(nil), f.changes[over:]...)
	}
}

// operations returns how many changes of operations this service was told of, its own and those of others
// that share the store.
func (f *feed) operations() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// forget has everybody look at everything.
func (f *feed) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.first += uint64(len(f.changes)) + 1
	f.changes = nil
	for id := range f.bells {
		f.ring(id)
	}
}

// wake lets those look again who wait for a node or operation.
func (f *feed) wake(id uuid.UUID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ring(id)
}

func (f *feed) ring(id uuid.UUID) {
	if b := f.bells[id]; b != nil {
		close(b.rung)
		delete(f.bells, id)
	}
}

// hear returns what rings at the next change for a node or operation, and what
// is to be called when nobody listens any more.
func (f *feed) hear(id uuid.UUID) (rung <-chan struct{}, leave func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.bells[id]
	if b == nil {
		b = &bell{rung: make(chan struct{})}
		f.bells[id] = b
	}
	b.waiters++
	return b.rung, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if b.waiters--; b.waiters == 0 && f.bells[id] == b {
			delete(f.bells, id)
		}
	}
}

// news is what changed after a revision.
type news struct {
	rev      uint64 // to ask with the next time
	full     bool   // the revision is not known here: look at everything
	any      bool
	datasets []uuid.UUID
}

// since returns what changed for a node after rev; for all nodes when node is
// nil.
func (f *feed) since(node uuid.UUID, rev uint64) news {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := news{rev: f.first + uint64(len(f.changes))}
	if rev < f.first || rev > n.rev {
		n.full, n.any = true, true
		return n
	}
	seen := map[uuid.UUID]bool{}
	for _, c := range f.changes[rev-f.first:] {
		if node != uuid.Nil && c.node != node {
			continue
		}
		n.any = true
		n.full = n.full || c.node == uuid.Nil
		if c.dataset != uuid.Nil && !seen[c.dataset] {
			seen[c.dataset] = true
			n.datasets = append(n.datasets, c.dataset)
		}
	}
	return n
}
