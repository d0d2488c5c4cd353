package control

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
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
	// A value of a lane holds this many changes, in about this many bytes: what one that
	// reads may be late by.
	toldMost  = 16
	toldBytes = 4 << 10
)

// tiding is what one transaction changed, for the agents and people that wait.
type tiding struct {
	Nodes    []uuid.UUID `json:"n,omitempty"`
	Datasets []uuid.UUID `json:"d,omitempty"`
	Ops      []uuid.UUID `json:"o,omitempty"`
	Events   []api.Event `json:"e,omitempty"`
}

func (t tiding) empty() bool { return len(t.Nodes) == 0 && len(t.Ops) == 0 && len(t.Events) == 0 }

// tidings is the value of a lane.
type tidings struct {
	Count  uint64   `json:"count"` // of the values that were written to the lane
	Recent []tiding `json:"recent"`
}

// lane is one such key, of this service.
type lane struct {
	key  string
	last tidings // what lies there
	next tidings // what the transaction under way writes
}

// outbox are the lanes of a service.
type outbox struct {
	replica uuid.UUID
	room    chan struct{} // holds one for each lane in use

	mu   sync.Mutex
	made int
	free []*lane          // the one that was used last at the end
	mine map[string]*lane // in good standing, by key
}

func newOutbox() *outbox {
	return &outbox{replica: uuid.New(), room: make(chan struct{}, lanesMost), mine: map[string]*lane{}}
}

// take returns a lane with the write that tells of t.
func (o *outbox) take(ctx context.Context, t tiding) (*lane, store.Write, error) {
	select {
	case o.room <- struct{}{}:
	case <-ctx.Done():
		return nil, store.Write{}, ctx.Err()
	}
	l := o.pick()
	l.next = tidings{Count: l.last.Count + 1, Recent: append(append([]tiding(nil), l.last.Recent...), t)}
	value, err := l.next.encode()
	if err != nil {
		o.done(l, false, true)
		return nil, store.Write{}, err
	}
	return l, store.Write{Key: l.key, Value: value}, nil
}

func (o *outbox) pick() *lane {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := len(o.free); n > 0 {
		l := o.free[n-1]
		o.free = o.free[:n-1]
		return l
	}
	l := &lane{key: revPrefix + o.replica.String() + "/" + strconv.Itoa(o.made)}
	o.made++
	o.mine[l.key] = l
	return l
}

// done gives a lane back, with what became of its transaction. One of which nobody
// knows may still be written to: it is left, and read like those of others.
func (o *outbox) done(l *lane, committed, known bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if committed {
		l.last = l.next
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

// encode drops the oldest changes that are too many: the newest always stays.
func (t *tidings) encode() ([]byte, error) {
	first, size := len(t.Recent), 0
	for first > 0 && len(t.Recent)-first < toldMost {
		b, err := json.Marshal(t.Recent[first-1])
		if err != nil {
			return nil, fmt.Errorf("encode what changed: %w", err)
		}
		if size += len(b); size > toldBytes && first < len(t.Recent) {
			break
		}
		first--
	}
	t.Recent = t.Recent[first:]
	return json.Marshal(t)
}

// missed returns what was told in a lane after the count-th value; ok is false when
// some of it is not there any more.
func (t tidings) missed(count uint64) (list []tiding, ok bool) {
	if t.Count < count || t.Count-count > uint64(len(t.Recent)) {
		return nil, false
	}
	return t.Recent[len(t.Recent)-int(t.Count-count):], true
}
