package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
)

// How a store that went back is found out, without a write that a cluster in which
// nothing changes would not make: the store's clock is how many values were written to
// all lanes (see tidings), those that were dropped since included. Each transaction that
// changes a home or a lease writes a lane, so it makes one more; a store that was put back
// has seen fewer than somebody knows of. Services know it from what they read, agents from
// control, on their disks. Indexes do not say it: those of a Consul that was put back go
// on above all that were given out.
//
// A service knows of its own changes sooner than by its clock: each of its transactions
// checks that its lane is as it left it.

// clockIn reads the clock in what lies under revPrefix, of which some may be known.
func clockIn(entries []store.Entry, known map[string]heard) (n uint64, err error) {
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

// highest is the highest clock that the store surely had, as far as a service knows: what
// it read last, and its own transactions that it began after that.
type highest struct {
	mu    sync.Mutex
	n     uint64
	reads int
}

func (h *highest) get() (n uint64, reads int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.n, h.reads
}

func (h *highest) read(n uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n = max(h.n, n)
	h.reads++
}

// made takes in a transaction that was begun after so many reads.
func (h *highest) made(reads int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reads == reads {
		h.n++
	}
}

// readLanes reads all lanes and holds their clock against what was seen before. It halts
// the cluster when the store went back.
func (s *Service) readLanes(ctx context.Context, known map[string]heard) (entries []store.Entry, clock uint64,
	err error) {
	before, _ := s.highest.get() // what is seen while this reads may be later
	if entries, err = s.store.List(ctx, record.RevPrefix, "", 0); err != nil {
		return nil, 0, unread(ctx, err)
	}
	if clock, err = clockIn(entries, known); err != nil {
		return nil, 0, err
	}
	if clock < before {
		return entries, clock, s.wentBack(ctx, before)
	}
	s.highest.read(clock)
	return entries, clock, nil
}

// clockReads has those share one reading of the lanes who ask for the clock at once: an
// agent that has to look at everything is seldom alone.
type clockReads struct {
	mu   sync.Mutex
	next *clockRead // that has not begun yet; nil: nobody waits for one
	last *clockRead // that was asked for
}

type clockRead struct {
	done  chan struct{}
	clock uint64
	err   error
}

// clock reads the clock, as readLanes does, once for all who asked before that began: what
// was read earlier does not show that the store was put back since.
func (s *Service) clock(ctx context.Context) (uint64, error) {
	c := &s.clockReads
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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTime) // others wait for it
	defer cancel()
	_, r.clock, r.err = s.readLanes(ctx, nil)
	close(r.done)
	return r.clock, r.err
}

// wentBack puts on record that the store is older than one that this service has seen.
// Again: nothing.
func (s *Service) wentBack(ctx context.Context, saw uint64) error {
	s.recalled.dropAll()
	s.ran.forget()
	ctx = context.WithValue(ctx, housing{}, nil) // whoever keeps the house now
	_, err := s.update(ctx, func(t *tx) error {
		t.silent = true // lanes may be what it was before
		var h record.Halt
		there, err := t.get(record.HaltedKey, &h)
		if err != nil || h.Saw >= saw {
			return err
		}
		if !there {
			h.At = s.Clock.Now()
		}
		h.Shared, h.Saw = true, saw
		return t.put(record.HaltedKey, h)
	})
	if err != nil {
		return fmt.Errorf("put on record that the store went back: %w", err)
	}
	return nil
}

// ticks reports whether a transaction changes where a dataset is at home, or its lease.
func (t *tx) ticks() bool {
	return slices.ContainsFunc(t.writes, func(w store.Write) bool {
		return strings.HasPrefix(w.Key, record.LeasesPrefix) || strings.HasPrefix(w.Key, record.HomesPrefix)
	})
}

// laneIsOurs reports whether a lane is as its service left it: another one would have
// been what a transaction was refused for.
func (s *Service) laneIsOurs(ctx context.Context, l *lane) (bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTime)
	defer cancel()
	e, err := (&tx{ctx: ctx, store: s.store}).fetch(l.key)
	if err != nil || e.Index == l.index {
		return err == nil, err
	}
	_, _, err = s.readLanes(ctx, nil)
	return false, err
}
