package record

import (
	"encoding/binary"
	"sync"

	"github.com/google/uuid"
)

// FeedSize is the minimum number of changes that the feed remembers. A reader that asks for older changes must read
// everything: see ChangeSet.Full.
const FeedSize = 8192

// Feed has the datasets that changed, by node, in the order in which this service committed the changes or learned of
// them from other services. Readers read the present state of a dataset from the store, so the order in which they
// learn of two changes to one dataset does not matter.
type Feed struct {
	mu         sync.Mutex
	first      uint64 // the revision before Changes[0]
	Changes    []change
	Waiting    map[uuid.UUID]*Waiters
	operations uint64 // how many changes of operations were published
}

// change says that a dataset of a node changed. If dataset is uuid.Nil, the work of the node changed. If node is
// uuid.Nil too, the replica that does the background work must examine everything.
type change struct{ node, dataset uuid.UUID }

// Waiters wakes all callers that wait for one node or operation, once.
type Waiters struct {
	signal chan struct{}
	count  int
}

// NewFeed returns an empty Feed. Its first revision is random, so that a revision of an earlier run of this or another
// service is probably not in its range. A reader with such a revision must read everything. Revisions stay below 2^53,
// because some JSON parsers cannot represent larger integers.
func NewFeed() *Feed {
	id := uuid.New()
	return &Feed{first: 1 + binary.BigEndian.Uint64(id[8:])>>12, Waiting: map[uuid.UUID]*Waiters{}}
}

// Publish adds the changes of one transaction.
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
		if !t.InResponse {
			f.wake(n)
		}
	}
	if t.Housekeeping {
		f.Changes = append(f.Changes, change{})
	}
	f.operations += uint64(len(t.Ops))
	for _, op := range t.Ops {
		f.wake(op)
	}
	if over := len(f.Changes) - FeedSize; over > FeedSize {
		f.first += uint64(over)
		f.Changes = append([]change(nil), f.Changes[over:]...)
	}
}

// Operations returns how many changes of operations were published, by this service and by others on the store.
func (f *Feed) Operations() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.operations
}

// Reset makes every reader read everything again.
func (f *Feed) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.first += uint64(len(f.Changes)) + 1
	f.Changes = nil
	for id := range f.Waiting {
		f.wake(id)
	}
}

// WakeWaiters wakes the callers that wait for a node or operation.
func (f *Feed) WakeWaiters(id uuid.UUID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wake(id)
}

func (f *Feed) wake(id uuid.UUID) {
	if b := f.Waiting[id]; b != nil {
		close(b.signal)
		delete(f.Waiting, id)
	}
}

// Subscribe returns a channel that is closed at the next change of a node or operation, and a function to call when
// the caller no longer waits.
func (f *Feed) Subscribe(id uuid.UUID) (changed <-chan struct{}, leave func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.Waiting[id]
	if b == nil {
		b = &Waiters{signal: make(chan struct{})}
		f.Waiting[id] = b
	}
	b.count++
	return b.signal, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if b.count--; b.count == 0 && f.Waiting[id] == b {
			delete(f.Waiting, id)
		}
	}
}

// ChangeSet contains the changes after a revision.
type ChangeSet struct {
	Rev uint64 // the revision for the next call
	// Full is true if the feed does not have all changes since the reader's revision. The reader must then read
	// everything.
	Full     bool
	Any      bool        // there are changes
	Datasets []uuid.UUID // the datasets that have changed, each once
}

// Since returns the changes of a node after rev. If node is uuid.Nil, it returns the changes of all nodes.
func (f *Feed) Since(node uuid.UUID, rev uint64) ChangeSet {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := ChangeSet{Rev: f.first + uint64(len(f.Changes))}
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

// IsAwaited reports whether a request waits for a node. Only tests use it.
func (f *Feed) IsAwaited(node uuid.UUID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.Waiting[node] != nil
}
