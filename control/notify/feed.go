// Package notify tells those who wait at this control replica what changed: agents which of their datasets, people
// which events. It holds recent changes in memory only; what a dataset is now is read from the store.
//
// Feed has the changes of datasets by node, EventLog the newest events. Each has its own mutex. A Notice is what
// one transaction changed; replicas pass notices to each other through lanes in the store.
package notify

import (
	"encoding/binary"
	"sync"

	"github.com/google/uuid"
)

// FeedSize is how many changes the feed remembers at least; who asks for older
// ones is told to look at everything.
const FeedSize = 8192

// Feed tells which datasets changed on which node, in the order in which this
// service committed them. What they are now is read from the store, so the
// order in which readers learn of two changes to one dataset does not matter.
type Feed struct {
	mu      sync.Mutex
	first   uint64 // revision before changes[0]
	Changes []change
	Bells   map[uuid.UUID]*Bell
	ops     uint64 // how many changes of operations were told of
}

// change is one dataset of one node; a nil dataset: the node's work changed. None of either: who
// does the background work is to look at everything.
type change struct{ node, dataset uuid.UUID }

// Bell rings once for all who wait for one node or operation.
type Bell struct {
	rung    chan struct{}
	waiters int
}

// NewFeed starts at a revision that no other run of the service is likely to be
// near, so that a reader who comes from one is told everything. Revisions stay
// below 2^53: some readers of JSON have no larger whole numbers.
func NewFeed() *Feed {
	id := uuid.New()
	return &Feed{first: 1 + binary.BigEndian.Uint64(id[8:])>>12, Bells: map[uuid.UUID]*Bell{}}
}

// Publish tells of one transaction.
func (f *Feed) Publish(t Notice) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range t.Nodes {
		for _, d := range t.Datasets {
			f.Changes = append(f.Changes, change{n, d})
		}
		if len(t.Datasets) == 0 {
			f.Changes = append(f.Changes, change{node: n})
		}
		if !t.Answered {
			f.ring(n)
		}
	}
	if t.House {
		f.Changes = append(f.Changes, change{})
	}
	f.ops += uint64(len(t.Ops))
	for _, op := range t.Ops {
		f.ring(op)
	}
	if over := len(f.Changes) - FeedSize; over > FeedSize {
		f.first += uint64(over)
		f.Changes = append([]change(nil), f.Changes[over:]...)
	}
}

// Operations returns how many changes of operations this service was told of, its own and those of others
// that share the store.
func (f *Feed) Operations() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// Forget has everybody look at everything.
func (f *Feed) Forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.first += uint64(len(f.Changes)) + 1
	f.Changes = nil
	for id := range f.Bells {
		f.ring(id)
	}
}

// Wake lets those look again who wait for a node or operation.
func (f *Feed) Wake(id uuid.UUID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ring(id)
}

func (f *Feed) ring(id uuid.UUID) {
	if b := f.Bells[id]; b != nil {
		close(b.rung)
		delete(f.Bells, id)
	}
}

// Hear returns what rings at the next change for a node or operation, and what
// is to be called when nobody listens any more.
func (f *Feed) Hear(id uuid.UUID) (rung <-chan struct{}, leave func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.Bells[id]
	if b == nil {
		b = &Bell{rung: make(chan struct{})}
		f.Bells[id] = b
	}
	b.waiters++
	return b.rung, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if b.waiters--; b.waiters == 0 && f.Bells[id] == b {
			delete(f.Bells, id)
		}
	}
}

// News is what changed after a revision.
type News struct {
	Rev      uint64 // to ask with the next time
	Full     bool   // the revision is not known here: look at everything
	Any      bool
	Datasets []uuid.UUID
}

// Since returns what changed for a node after rev; for all nodes when node is
// nil.
func (f *Feed) Since(node uuid.UUID, rev uint64) News {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := News{Rev: f.first + uint64(len(f.Changes))}
	if rev < f.first || rev > n.Rev {
		n.Full, n.Any = true, true
		return n
	}
	seen := map[uuid.UUID]bool{}
	for _, c := range f.Changes[rev-f.first:] {
		if node != uuid.Nil && c.node != node {
			continue
		}
		n.Any = true
		n.Full = n.Full || c.node == uuid.Nil
		if c.dataset != uuid.Nil && !seen[c.dataset] {
			seen[c.dataset] = true
			n.Datasets = append(n.Datasets, c.dataset)
		}
	}
	return n
}

// IsAwaited reports whether somebody waits for a node.
func (f *Feed) IsAwaited(node uuid.UUID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.Bells[node] != nil
}
