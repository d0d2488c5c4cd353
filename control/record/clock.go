package record

import (
	"context"
	"fmt"
	"sync"

	"github.com/droverhq/drover/control/store"
)

// The store clock shows that a store was restored from an older backup. It is not stored separately, so it causes no
// writes in an idle cluster.
//
// The store clock is the number of values that were written to all lanes (see lanes.go), including lanes that were
// removed. Each transaction that changes a home or a lease writes a lane, which raises the clock. A store that was
// restored from a backup has a lower clock than a service or an agent has seen. Services learn the clock from their
// reads. Agents learn the clock from control, and keep it on disk. The indexes of the store do not show a restore,
// because Consul continues above all indexes that it has given out.
//
// A service may notice a restore even earlier: each of its transactions checks that its lane still has the value that
// this service wrote last.

// StoreClockOf returns the store clock, computed from the entries under RevPrefix. Lanes that have not changed since
// this service read them are taken from known and not decoded again.
func StoreClockOf(entries []store.Entry, known map[string]lanePosition) (n uint64, err error) {
	for _, e := range entries {
		if was, ok := known[e.Key]; ok && was.index == e.Index {
			n += was.count
			continue
		}
		var t struct {
			Count uint64 `json:"count"`
		}
		if err := Decode(e.Key, e.Value, &t); err != nil {
			return 0, err
		}
		n += t.Count
	}
	return n, nil
}

// highestClock holds a lower bound of the store clock. It is the last clock that the service read, plus one for each
// later transaction of this service that raised the clock.
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

func (h *highestClock) setRead(n uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n = max(h.n, n)
	h.reads++
}

// countTransaction raises the clock by one for a transaction. reads is the number of reads when the transaction began.
// If the clock was read since then, the read may already include the transaction, so countTransaction does nothing.
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
	before, _ := l.highest.get() // before the read, because this service may see a higher clock meanwhile
	if entries, err = l.Store.List(ctx, RevPrefix, "", 0); err != nil {
		return nil, 0, ReadError(ctx, err)
	}
	if clock, err = StoreClockOf(entries, known); err != nil {
		return nil, 0, err
	}
	if clock < before {
		return entries, clock, l.HaltRestored(ctx, before)
	}
	l.highest.setRead(clock)
	return entries, clock, nil
}

// clockReads shares one read of the lanes among all callers that ask for the clock at the same time. Often several
// agents must read everything at once.
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

// ReadClock reads the clock as ReadLanes does. All callers that asked before the read began share it. A call never
// uses a read that began before the call, because the store may have been restored from a backup since then.
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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), CommitTimeout) // others wait for it
	defer cancel()
	_, r.clock, r.err = l.ReadLanes(ctx, nil)
	close(r.done)
	return r.clock, r.err
}

// HaltRestored halts the store, because its clock is below an earlier clock. The argument saw is that earlier clock,
// which this service has seen. Idempotent.
func (l *Ledger) HaltRestored(ctx context.Context, saw uint64) error {
	l.dropMemory()
	ctx = context.WithValue(ctx, housekeeperContext{}, nil) // any service may record the halt, not only the housekeeper
	_, err := l.Update(ctx, func(t *Tx) error {
		t.WithoutNotice = true // the lanes may be in the old state
		var h Halt
		there, err := t.Get(HaltedKey, &h)
		if err != nil || h.HighestClock >= saw {
			return err
		}
		if !there {
			h.At = l.Clock.Now()
		}
		h.Shared, h.HighestClock = true, saw
		return t.Put(HaltedKey, h)
	})
	if err != nil {
		return fmt.Errorf("record that the store was restored from a backup: %w", err)
	}
	return nil
}

// isLaneUnchanged reports whether a lane still has the value that this service wrote last. It is called after the
// store has refused a transaction: if the lane has another value, that was the reason for the refusal.
func (l *Ledger) isLaneUnchanged(ctx context.Context, own *lane) (bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), CommitTimeout)
	defer cancel()
	e, err := NewTx(ctx, l.Store).Fetch(own.key)
	if err != nil || e.Index == own.index {
		return err == nil, err
	}
	_, _, err = l.ReadLanes(ctx, nil)
	return false, err
}
