package control

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/notify"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
)

// Services that share a store tell each other what they change by keys of their own,
// <rev/replica/lane>, which each transaction that somebody waits for writes too. A
// lane is a key that one transaction at a time writes: so the values of one come in
// order, each numbered and with those before it, and whoever reads the newest knows
// what he has missed, or that it was too much. Lanes come with concurrency: a service
// that does one thing at a time has one. No transaction of one service is ever in the
// way of another's.
const (
	lanesMost = 32 // transactions that a service commits at once, of those that tell
	// A value of a lane holds this many changes, in about this many bytes, and fewer with
	// many lanes, which take turns: who reads may be late by so many of all of them.
	toldMost     = 16
	toldBytes    = 4 << 10
	toldTogether = 512
)

// written is the same for who writes it, to whom all but the newest is text.
type written struct {
	Count  uint64            `json:"count"`
	Recent []json.RawMessage `json:"recent"`
}

// lane is one such key, of this service.
type lane struct {
	key   string
	index uint64  // of the transaction that wrote it last
	last  written // what lies there
	next  written // what the transaction under way writes
}

// outbox are the lanes of a service.
type outbox struct {
	replica uuid.UUID
	room    chan struct{} // holds one for each lane in use

	mu   sync.Mutex
	made int
	free []*lane          // in the order of their use
	mine map[string]*lane // in good standing, by key
}

func newOutbox() *outbox {
	return &outbox{replica: uuid.New(), room: make(chan struct{}, lanesMost), mine: map[string]*lane{}}
}

// take returns a lane with the write that tells of t.
func (o *outbox) take(ctx context.Context, t notify.Notice) (*lane, store.Write, error) {
	select {
	case o.room <- struct{}{}:
	case <-ctx.Done():
		return nil, store.Write{}, ctx.Err()
	}
	l, most := o.pick()
	value, err := l.add(t, most)
	if err != nil {
		o.done(l, 0, true)
		return nil, store.Write{}, err
	}
	return l, store.Write{Key: l.key, Value: value}, nil
}

// pick returns the lane that was left alone for longest, and how many changes a value has.
func (o *outbox) pick() (l *lane, most int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.free) > 0 {
		l, o.free = o.free[0], o.free[1:]
		return l, min(toldMost, toldTogether/len(o.mine))
	}
	l = &lane{key: record.RevPrefix + o.replica.String() + "/" + strconv.Itoa(o.made)}
	o.made++
	o.mine[l.key] = l
	return l, toldMost
}

// done gives a lane back, with the index of its transaction; 0: that did not happen. One
// of which nobody knows may still be written to, and one that is not what was left there
// is another's: it is left, and read like those of others.
func (o *outbox) done(l *lane, index uint64, known bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if index != 0 {
		l.index, l.last = index, l.next
	}
	if known {
		o.free = append(o.free, l)
	} else {
		delete(o.mine, l.key)
	}
	<-o.room
}

// own reports whether a key is a lane of which this service knows all.
func (o *outbox) own(key string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mine[key] != nil
}

// add makes the next value of a lane, which drops the oldest changes that are too many: the
// newest always stays.
func (l *lane) add(t notify.Notice, most int) ([]byte, error) {
	newest, err := json.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("encode what changed: %w", err)
	}
	recent := append(slices.Clone(l.last.Recent), newest)
	recent = recent[max(0, len(recent)-most):]
	size := 0
	for _, r := range recent {
		size += len(r)
	}
	for len(recent) > 1 && size > toldBytes {
		size -= len(recent[0])
		recent = recent[1:]
	}
	l.next = written{Count: l.last.Count + 1, Recent: recent}
	return json.Marshal(l.next)
}
