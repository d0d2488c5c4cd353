package record

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// Ledger runs the decisions of one service on its store. Safe for concurrent use.
type Ledger struct {
	Store  store.Store
	Clock  clock.Clock
	Feed   *Feed
	Events *EventLog
	// Shared is true if other services may work on the same store. The ledger then notifies them of its changes.
	Shared bool
	// Restored is called when the store was restored from an older backup, so that everything must be read again. May
	// be nil.
	Restored func()
	// Failed is called with the failures of background work.
	Failed     func(what string, err error)
	nodes      *NodeCache
	lanes      *laneSet     // the lanes of this service; nil if the store is not shared
	highest    highestClock // the highest clock of the store that this service has seen
	clockReads clockReads
}

// NewLedger returns a ledger on a store.
func NewLedger(s store.Store, c clock.Clock, shared bool, failed func(what string, err error)) *Ledger {
	l := &Ledger{
		Store: s, Clock: c, Feed: NewFeed(), Events: NewEventLog(c.Now()), Shared: shared, Failed: failed,
		nodes: &NodeCache{clock: c, nodes: map[string]cachedNode{}},
	}
	if shared {
		l.lanes = newLaneSet()
	}
	return l
}

// Nodes returns the records of nodes as they were last seen in the store.
func (l *Ledger) Nodes() *NodeCache { return l.nodes }

// Replica returns the identity of this service among those that share the store. The store must be shared.
func (l *Ledger) Replica() uuid.UUID { return l.lanes.replica }

// HighestClock returns a lower bound of the store clock, from what this service has read and written.
func (l *Ledger) HighestClock() uint64 {
	n, _ := l.highest.get()
	return n
}

// dropMemory drops the memory of a store that was restored from an older backup.
func (l *Ledger) dropMemory() {
	l.nodes.dropAll()
	if l.Restored != nil {
		l.Restored()
	}
}

// maxAttempts is how often a decision is repeated because a record that it read has changed. A decision is repeated
// only if another transaction was committed, so the services together always make progress.
const maxAttempts = 64

// Update makes one decision and commits it. It repeats the decision while the records that it depends on change. It
// returns the index of the transaction; 0 if nothing was written.
func (l *Ledger) Update(ctx context.Context, decide func(*Tx) error) (index uint64, err error) {
	for n := range maxAttempts {
		if index, err = l.try(ctx, n == 0, decide); !errors.Is(err, ErrChanged) {
			break
		}
	}
	return index, err
}

func (l *Ledger) try(ctx context.Context, first bool, decide func(*Tx) error) (uint64, error) {
	t := NewTx(ctx, l.Store)
	t.FirstTry = first
	err := l.checkHousekeeper(t)
	if err == nil {
		err = decide(t)
	}
	if err != nil || len(t.Writes()) == 0 {
		return 0, t.Outcome(err)
	}
	return l.commit(t)
}

// commit commits the decision. In the same transaction it writes a lane, which notifies the other services. Then it
// notifies the callers that wait at this service.
func (l *Ledger) commit(t *Tx) (uint64, error) {
	notice, own := l.noticeOf(t), (*lane)(nil)
	if l.lanes != nil && !t.WithoutNotice && (!notice.Empty() || t.RaisesClock()) {
		var w store.Write
		var err error
		if own, w, err = l.lanes.acquire(t.Context(), notice); err != nil {
			return 0, err
		}
		t.Write(w)
		t.CheckUnchanged(store.Entry{Key: own.key, Index: own.index})
	}
	_, reads := l.highest.get()
	index, err := t.Commit()
	refused := errors.Is(err, store.ErrConflict)
	if own != nil {
		known := err == nil || errors.Is(err, store.ErrTooLarge)
		if refused {
			var lerr error
			if known, lerr = l.isLaneUnchanged(t.Context(), own); lerr != nil {
				err, refused = lerr, false
			}
		}
		l.lanes.release(own, index, known)
		if err == nil {
			l.highest.countTransaction(reads)
		}
	}
	l.nodes.drop(t.Writes())
	switch {
	case err == nil:
		l.publish(notice)
		return index, nil
	case refused:
		return 0, ErrBusy
	}
	// The transaction may have been committed. Wake the agents too, so that they read the store.
	notice.InResponse = false
	l.Feed.Publish(notice)
	return 0, CommitError(t.Context(), err)
}

// noticeOf returns the notice of a transaction, with the present time and who requested the change in its events.
func (l *Ledger) noticeOf(t *Tx) Notice {
	now := l.Clock.Now()
	for i := range t.Notice.Events {
		t.Notice.Events[i].Time, t.Notice.Events[i].By = now, t.By
	}
	return t.Notice
}

// View makes a decision that writes nothing. It repeats the decision while the records that it reads change.
func (l *Ledger) View(ctx context.Context, decide func(*Tx) error) (err error) {
	for range maxAttempts {
		t := NewTx(ctx, l.Store)
		t.ReadOnly = true
		if err = decide(t); !errors.Is(err, ErrChanged) {
			break
		}
	}
	return err
}

// Preview makes one decision as Update does, and discards its writes and notices. It fails if the decision fails. It
// does not notice an error that only the commit would return.
func (l *Ledger) Preview(ctx context.Context, decide func(*Tx) error) (err error) {
	for range maxAttempts {
		t := NewTx(ctx, l.Store)
		if err = t.Outcome(decide(t)); !errors.Is(err, ErrChanged) {
			break
		}
	}
	return err
}

// checkHousekeeper fails if t belongs to the background work and another service does that work now. A service that was
// paused may not know yet that another has taken over.
func (l *Ledger) checkHousekeeper(t *Tx) error {
	if !l.Shared || t.Context().Value(housekeeperContext{}) == nil {
		return nil
	}
	var h HousekeeperLock
	taken, err := t.Get(HousekeeperKey, &h)
	if err == nil && (!taken || h.Replica != l.lanes.replica) {
		err = dataset.Errorf(dataset.ErrStale, "another replica now does the background work")
	}
	return err
}

// housekeeperContext marks the context of the background work.
type housekeeperContext struct{}

// AsHousekeeper marks a context: decisions with it fail once another replica does the background work.
func AsHousekeeper(ctx context.Context) context.Context {
	return context.WithValue(ctx, housekeeperContext{}, true)
}

// HousekeeperLock is the value of HousekeeperKey: which replica does the background work.
type HousekeeperLock struct {
	Replica uuid.UUID `json:"replica"`
	Since   time.Time `json:"since"`
}

// publish notifies the waiting callers of the changes of a transaction.
func (l *Ledger) publish(t Notice) {
	l.Feed.Publish(t)
	l.Events.Publish(t.Events...)
	if t.All {
		l.Feed.Reset()
	}
}

// Stopping returns the error for requests that still wait when the service stops.
func Stopping() error { return dataset.Errorf(dataset.ErrUnavailable, "control is stopping") }

// NodeCacheTTL is how long a cached record of a node is used. It is a little longer than the time between two reports
// of an agent.
const NodeCacheTTL = 15 * time.Second

// NodeCache has the records of nodes as this service last saw them in the store. A decision can use a cached record
// instead of reading it. Then the commit checks that the record has not changed: see Tx.UseCached.
type NodeCache struct {
	clock clock.Clock

	mu    sync.Mutex
	nodes map[string]cachedNode
}

type cachedNode struct {
	entry store.Entry
	at    time.Duration // by the steady clock
}

// Remember caches the record of a node that a transaction has read. began is when the transaction began. The age of the
// cached record is counted from began, because the transaction may have read the record at any time since then.
func (r *NodeCache) Remember(t *Tx, node uuid.UUID, began time.Duration) {
	e := t.Entry(NodeKey(node))
	if e.Index == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes[e.Key] = cachedNode{e, began}
}

// drop removes the nodes that a transaction writes.
func (r *NodeCache) drop(writes []store.Write) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range writes {
		if strings.HasPrefix(w.Key, NodesPrefix) {
			delete(r.nodes, w.Key)
		}
	}
}

// dropAll removes all nodes. It is called when the store was restored from a backup: such a store may give out an
// index a second time, so the check of an index proves nothing.
func (r *NodeCache) dropAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.nodes)
}

// Entry returns the cached entry of a node, for Tx.UseCached. It returns false if the node is not cached, or
// if its entry is too old.
func (r *NodeCache) Entry(node uuid.UUID) (store.Entry, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.nodes[NodeKey(node)]
	return known.entry, ok && r.clock.Steady()-known.at < NodeCacheTTL
}

// Node returns a record of a node that may be a few seconds old.
func (r *NodeCache) Node(id uuid.UUID) (n dataset.Node, ok bool) {
	e, ok := r.Entry(id)
	return n, ok && Decode(e.Key, e.Value, &n) == nil
}
