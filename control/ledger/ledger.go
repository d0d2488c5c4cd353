// Package ledger runs the transactions of control on its store, and notifies everyone who waits for their changes.
//
// A decision is a function that reads and writes records through a record.Tx. Ledger.Update calls the function, commits
// its transaction, and calls the function again if a record that it read has changed. Ledger.View does the same for a
// function that writes nothing. Package control makes one Ledger for each service. Packages agentsync, deletion,
// generation, health, housekeeping, membership, noderemoval, planning, recovery, replica, repositories, uptime and view
// call it. Other packages, such as relocation and placer, get the record.Tx of their caller.
//
// A commit notifies the callers that wait at this service, through the feed and the event log. It notifies the other
// services on the store through lanes: keys that carry the latest notices (lanes.go). FollowReplicas reads the lanes of
// the other services. Each lane counts the values that were written to it. The sum of these counts is the store clock:
// a lower one than before shows that the store was restored from a backup (clock.go). The store of a single host has
// neither lanes nor a clock.
//
// The package keeps in memory the lanes of this service, the highest store clock that it has seen, the read of the
// clock in progress, and node records (NodeCache), which save most reads of nodes. Each of these has a mutex. No lock
// is held during access to the store. How often a decision is repeated, and whom a commit notifies, belongs here.
// What a decision reads and writes belongs in the package that makes the decision.
package ledger

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/notify"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// Ledger runs the decisions of one service on its store. Safe for concurrent use.
type Ledger struct {
	Store  store.Store
	Clock  clock.Clock
	Feed   *notify.Feed
	Events *notify.EventLog
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

// New returns a ledger on a store.
func New(s store.Store, c clock.Clock, shared bool, failed func(what string, err error)) *Ledger {
	l := &Ledger{
		Store: s, Clock: c, Feed: notify.NewFeed(), Events: notify.NewEventLog(c.Now()), Shared: shared, Failed: failed,
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
func (l *Ledger) Update(ctx context.Context, decide func(*record.Tx) error) (index uint64, err error) {
	for n := range maxAttempts {
		if index, err = l.try(ctx, n == 0, decide); !errors.Is(err, record.ErrChanged) {
			break
		}
	}
	return index, err
}

func (l *Ledger) try(ctx context.Context, first bool, decide func(*record.Tx) error) (uint64, error) {
	t := record.NewTx(ctx, l.Store)
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
func (l *Ledger) commit(t *record.Tx) (uint64, error) {
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
		return 0, record.ErrBusy
	}
	// The transaction may have been committed. Wake the agents too, so that they read the store.
	notice.InResponse = false
	l.Feed.Publish(notice)
	return 0, record.CommitError(t.Context(), err)
}

// noticeOf returns the notice of a transaction, with the present time and who requested the change in its events.
func (l *Ledger) noticeOf(t *record.Tx) notify.Notice {
	now := l.Clock.Now()
	for i := range t.Notice.Events {
		t.Notice.Events[i].Time, t.Notice.Events[i].By = now, t.By
	}
	return t.Notice
}

// View makes a decision that writes nothing. It repeats the decision while the records that it reads change.
func (l *Ledger) View(ctx context.Context, decide func(*record.Tx) error) (err error) {
	for range maxAttempts {
		t := record.NewTx(ctx, l.Store)
		t.ReadOnly = true
		if err = decide(t); !errors.Is(err, record.ErrChanged) {
			break
		}
	}
	return err
}

// Preview makes one decision as Update does, and discards its writes and notices. It fails if the decision fails. It
// does not notice an error that only the commit would return.
func (l *Ledger) Preview(ctx context.Context, decide func(*record.Tx) error) (err error) {
	for range maxAttempts {
		t := record.NewTx(ctx, l.Store)
		if err = t.Outcome(decide(t)); !errors.Is(err, record.ErrChanged) {
			break
		}
	}
	return err
}

// checkHousekeeper fails if t belongs to the background work and another service does that work now. A service that was
// paused may not know yet that another has taken over.
func (l *Ledger) checkHousekeeper(t *record.Tx) error {
	if !l.Shared || t.Context().Value(housekeeperContext{}) == nil {
		return nil
	}
	var h HousekeeperLock
	taken, err := t.Get(record.HousekeeperKey, &h)
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

// HousekeeperLock is the value of record.HousekeeperKey: which replica does the background work.
type HousekeeperLock struct {
	Replica uuid.UUID `json:"replica"`
	Since   time.Time `json:"since"`
}

// publish notifies the waiting callers of the changes of a transaction.
func (l *Ledger) publish(t notify.Notice) {
	l.Feed.Publish(t)
	l.Events.Publish(t.Events...)
	if t.All {
		l.Feed.Reset()
	}
}

// Stopping returns the error for requests that still wait when the service stops.
func Stopping() error { return dataset.Errorf(dataset.ErrUnavailable, "control is stopping") }
