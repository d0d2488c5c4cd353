package ledger

import (
	"context"
	"fmt"
	"sync"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
)

// How a store that was restored from an older backup is recognised, without writes that an idle cluster would not make:
//
// The store's clock is the number of values that were written to all lanes (see lanes.go), including lanes that were
// removed. Each transaction that changes a home or a lease writes a lane, and so raises the clock. A store
// that was restored from a backup has a lower clock than a service or an agent has seen. Services learn the
// clock from their reads. Agents learn it from control, and keep it on disk. Indexes do not show it: those of
// a restored Consul continue above all that were given out.
//
// A service notices a change of its own lane sooner than by the clock: each of its transactions checks that its lane is
// as it left it.

// ClockIn returns the clock from the entries under RevPrefix, of which this service may know some already.
func ClockIn(entries []store.Entry, known map[string]lanePosition) (n uint64, err error) {
	for _, e := range entries {
		if was, ok := known[e.Key]; ok && was.index == e.Index {
			n += was.count
			continue
		}
		var t struct {
			Count uint64 `json:"count"`
		}
		if err := record.Decode(e.Key, e.Value, &t); err != nil {
			return 0, err
		}
		n += t.Count
	}
	return n, nil
}

// highestClock has the highest clock that the store certainly had, as far as this service knows: the last clock that it
// read, plus one for each transaction that it began after that.
type highestClock struct {
	mu    sync.Mutex
	n     uint64
	reads int
}

func (h *highestClock) get() (n uint64, reads int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.n, h.reads
}

func (h *highestClock) noteRead(n uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n = max(h.n, n)
	h.reads++
}

// countTransaction counts a transaction that was begun after so many reads.
func (h *highestClock) countTransaction(reads int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reads == reads {
		h.n++
	}
}

// ReadLanes reads all lanes and compares their clock with the highest one seen before. If the clock is lower, it halts
// the cluster.
func (l *Ledger) ReadLanes(ctx context.Context, known map[string]lanePosition) (entries []store.Entry, clock uint64,
	err error) {
	before, _ := l.highest.get() // a clock that is seen during the read may be later
	if entries, err = l.Store.List(ctx, record.RevPrefix, "", 0); err != nil {
		return nil, 0, record.ReadError(ctx, err)
	}
	if clock, err = ClockIn(entries, known); err != nil {
		return nil, 0, err
	}
	if clock < before {
		return entries, clock, l.HaltRestored(ctx, before)
	}
	l.highest.noteRead(clock)
	return entries, clock, nil
}

// clockReads lets callers that ask for the clock at the same time share one read of the lanes: often several agents
// must read everything at the same time.
type clockReads struct {
	mu   sync.Mutex
	next *clockRead // the next read, which has not begun; nil if no caller waits for one
	last *clockRead // the last read that was requested
}

type clockRead struct {
	done  chan struct{}
	clock uint64
	err   error
}

// ReadClock reads the clock as ReadLanes does, once for all callers that asked before the read began. It does not use
// an earlier read, because the store may have been restored from a backup since.
func (l *Ledger) ReadClock(ctx context.Context) (uint64, error) {
	c := &l.clockReads
	c.mu.Lock()
	r, first, before := c.next, c.next == nil, c.last
	if first {
		r = &clockRead{done: make(chan struct{})}
		c.next, c.last = r, r
	}
	c.mu.Unlock()
	if !first {
		select {
		case <-r.done:
			return r.clock, r.err
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if before != nil {
		<-before.done
	}
	c.mu.Lock()
	c.next = nil
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), record.CommitTimeout) // others wait for it
	defer cancel()
	_, r.clock, r.err = l.ReadLanes(ctx, nil)
	close(r.done)
	return r.clock, r.err
}

// HaltRestored records that the store is older than a state that this service has seen. Idempotent.
func (l *Ledger) HaltRestored(ctx context.Context, saw uint64) error {
	l.dropMemory()
	ctx = context.WithValue(ctx, housekeeperContext{}, nil) // whichever replica does the background work at present
	_, err := l.Update(ctx, func(t *record.Tx) error {
		t.WithoutNotice = true // the lanes may be in the old state
		var h record.Halt
		there, err := t.Get(record.HaltedKey, &h)
		if err != nil || h.HighestClock >= saw {
			return err
		}
		if !there {
			h.At = l.Clock.Now()
		}
		h.Shared, h.HighestClock = true, saw
		return t.Put(record.HaltedKey, h)
	})
	if err != nil {
		return fmt.Errorf("record that the store was restored from a backup: %w", err)
	}
	return nil
}

// isLaneUnchanged reports whether a lane is as this service left it. Another value would be the reason for a refused
// transaction.
func (l *Ledger) isLaneUnchanged(ctx context.Context, own *lane) (bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), record.CommitTimeout)
	defer cancel()
	e, err := record.NewTx(ctx, l.Store).Fetch(own.key)
	if err != nil || e.Index == own.index {
		return err == nil, err
	}
	_, _, err = l.ReadLanes(ctx, nil)
	return false, err
}
