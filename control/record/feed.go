package record

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
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

// Notice lists the changes of one transaction, for the callers that wait for them.
type Notice struct {
	Nodes    []uuid.UUID `json:"n,omitempty"`
	Datasets []uuid.UUID `json:"d,omitempty"`
	Ops      []uuid.UUID `json:"o,omitempty"`
	Events   []api.Event `json:"e,omitempty"`
	// InResponse says that the agents of Nodes learn everything from the response to their request, so they are not
	// woken. These agents get this change with their next response.
	InResponse   bool `json:"a,omitempty"`
	All          bool `json:"all,omitempty"` // all readers must read everything again
	Housekeeping bool `json:"h,omitempty"`   // the replica that does the background work must examine everything
}

// Empty reports whether the notice contains nothing.
func (t Notice) Empty() bool {
	return len(t.Nodes) == 0 && len(t.Ops) == 0 && len(t.Events) == 0 && !t.All && !t.Housekeeping
}

// LaneValue is the value of a lane.
type LaneValue struct {
	Count  uint64   `json:"count"` // how many values were written to the lane
	Recent []Notice `json:"recent"`
}

// After returns the notices of the values that were written to a lane after the count-th one. Each value added one
// notice. ok is false if the lane no longer has all of these notices.
func (t LaneValue) After(count uint64) (list []Notice, ok bool) {
	if t.Count < count || t.Count-count > uint64(len(t.Recent)) {
		return nil, false
	}
	return t.Recent[len(t.Recent)-int(t.Count-count):], true
}

// EventsKept is the minimum number of past events that the log keeps.
const EventsKept = 1024

// EventLog keeps the newest events, and wakes the callers that wait for the next one.
type EventLog struct {
	mu      sync.Mutex
	Ring    []api.Event   // with consecutive IDs
	Next    uint64        // ID of the next event
	waiting chan struct{} // closed at the next event
}

// NewEventLog returns an empty log. The first ID is the present time, so that the IDs are above those of an earlier
// run. A reader that continues after an event of an earlier run gets all events of this run.
func NewEventLog(now time.Time) *EventLog {
	return &EventLog{Next: uint64(max(now.UnixMicro(), 1)), waiting: make(chan struct{})}
}

// Publish gives each event the next ID, keeps it, and wakes the callers that wait.
func (e *EventLog) Publish(evs ...api.Event) {
	if len(evs) == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range evs {
		ev.ID = e.Next
		e.Next++
		e.Ring = append(e.Ring, ev)
	}
	if over := len(e.Ring) - EventsKept; over > EventsKept {
		e.Ring = append([]api.Event(nil), e.Ring[over:]...)
	}
	close(e.waiting)
	e.waiting = make(chan struct{})
}

// After returns the kept events after an ID, and a channel that is closed at the next event. If the ID has not been
// given out yet, as after a restart with a clock that was set back, After returns all kept events.
func (e *EventLog) After(id uint64) ([]api.Event, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	first := e.Next - uint64(len(e.Ring))
	skip := uint64(0)
	if id >= first && id < e.Next {
		skip = id - first + 1
	}
	return append([]api.Event(nil), e.Ring[skip:]...), e.waiting
}

// Await waits until signal is closed or timeout fires, and reports whether signal was closed first. It fails with
// dataset.ErrUnavailable when quit is closed, because the service is stopping, and with the error of ctx when ctx ends.
func Await(ctx context.Context, quit, signal <-chan struct{}, timeout <-chan time.Time) (signaled bool, err error) {
	select {
	case <-signal:
		return true, nil
	case <-timeout:
		return false, nil
	case <-quit:
		return false, Stopping()
	case <-ctx.Done():
		return false, ctx.Err()
	}
}
