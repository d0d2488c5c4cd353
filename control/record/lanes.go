package record

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
)

// Services that share a store notify each other through lanes. A lane is a key <rev/replica/lane>, which only one
// service writes. Each transaction that affects other services also writes a lane.
//
// Only one transaction at a time writes a lane, so its values come in order. Each value has a number, the newest
// notice and the notices before it. So a reader of the newest value gets the notices that it missed. If it missed more
// than the value contains, the number shows that.
//
// Transactions that a service commits at the same time use different lanes. A service that commits one transaction at
// a time needs only one lane. Because only one service writes a lane, transactions of different services never
// conflict because of lanes.
const (
	maxLanes = 32 // transactions with notices that a service commits at the same time
	// maxRecent and maxRecentBytes bound the notices in one value of a lane. maxRecentTotal bounds the notices in the
	// values of all lanes together: the more lanes there are, the fewer notices each value has. The lanes are used in
	// turn, so each one is written less often.
	maxRecent      = 16
	maxRecentBytes = 4 << 10
	maxRecentTotal = 512
)

// laneValue has the same JSON as LaneValue, but its notices stay encoded.
type laneValue struct {
	Count  uint64            `json:"count"`
	Recent []json.RawMessage `json:"recent"`
}

// lane is one key that this service writes.
type lane struct {
	key   string
	index uint64    // of the transaction that wrote it last
	last  laneValue // the value in the store
	next  laneValue // the value that the transaction in progress writes
}

// laneSet holds the lanes of a service.
type laneSet struct {
	replica uuid.UUID
	slots   chan struct{} // contains one element for each lane in use

	mu    sync.Mutex
	made  int
	free  []*lane          // in the order of their use
	owned map[string]*lane // lanes whose value this service knows, by key
}

func newLaneSet() *laneSet {
	return &laneSet{replica: uuid.New(), slots: make(chan struct{}, maxLanes), owned: map[string]*lane{}}
}

// acquire returns a lane, with the write that announces notice t in it.
func (o *laneSet) acquire(ctx context.Context, t Notice) (*lane, store.Write, error) {
	select {
	case o.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, store.Write{}, ctx.Err()
	}
	l, most := o.pick()
	value, err := l.add(t, most)
	if err != nil {
		o.release(l, 0, true)
		return nil, store.Write{}, err
	}
	return l, store.Write{Key: l.key, Value: value}, nil
}

// pick returns the lane that was unused for the longest time, and the maximum number of notices in its next value.
func (o *laneSet) pick() (l *lane, most int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.free) > 0 {
		l, o.free = o.free[0], o.free[1:]
		return l, min(maxRecent, maxRecentTotal/len(o.owned))
	}
	l = &lane{key: RevPrefix + o.replica.String() + "/" + strconv.Itoa(o.made)}
	o.made++
	o.owned[l.key] = l
	return l, maxRecent
}

// release returns a lane after its transaction. index is the index of the transaction, or 0 if it was not committed.
//
// known is false in two cases: the outcome is unknown, so that the lane may still be written, or the lane has a value
// that this service did not write. Then this service stops using the lane, and reads it like the lanes of other
// services.
func (o *laneSet) release(l *lane, index uint64, known bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if index != 0 {
		l.index, l.last = index, l.next
	}
	if known {
		o.free = append(o.free, l)
	} else {
		delete(o.owned, l.key)
	}
	<-o.slots
}

// owns reports whether a key is a lane whose value this service knows.
func (o *laneSet) owns(key string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.owned[key] != nil
}

// add makes the next value of a lane. If there are too many notices, it drops the oldest ones. It always keeps the
// newest.
func (l *lane) add(t Notice, most int) ([]byte, error) {
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
	for len(recent) > 1 && size > maxRecentBytes {
		size -= len(recent[0])
		recent = recent[1:]
	}
	l.next = laneValue{Count: l.last.Count + 1, Recent: recent}
	return json.Marshal(l.next)
}

// retryPause is the pause after the store did not answer.
const retryPause = time.Second

// gatherPause is how long FollowReplicas waits after a change, so that it reads several changes at once. It is so
// short that the lanes still have all changes afterwards. Without the pause, a busy replica would read the lanes for
// each of its own transactions too.
const gatherPause = 10 * time.Millisecond

// lanePosition is a service's position in a lane.
type lanePosition struct {
	index uint64
	count uint64
}

// LanePositions is a service's position in all lanes.
type LanePositions struct {
	lanes    map[string]lanePosition // nil before the first read, and after the store was replaced
	readAt   time.Duration           // when they were read, by the steady clock
	reported bool                    // it was reported that the store does not answer
}

// FollowReplicas publishes the changes by the other services on the store, until ctx ends. It holds one watch, reads
// the lanes when it wakes, and writes nothing.
func (l *Ledger) FollowReplicas(ctx context.Context) {
	var h LanePositions
	for index := uint64(0); ctx.Err() == nil; {
		next, err := l.awaitChange(ctx, index)
		if err == nil {
			if next < index { // the store was restored from a backup
				h.lanes = nil
				l.dropMemory()
			}
			err = l.ReadNotices(ctx, &h)
		}
		pause := gatherPause
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			index, h.reported = next, false
		default:
			pause = retryPause
			if !h.reported {
				h.reported = true
				l.Failed("receive changes of other replicas", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-l.Clock.After(pause):
		}
	}
}

// maxReadInterval is how often FollowReplicas reads the lanes when nothing changes. It is much shorter than LanesKept.
const maxReadInterval = 2 * time.Minute

func (l *Ledger) awaitChange(ctx context.Context, index uint64) (uint64, error) {
	wait, cancel := context.WithTimeout(ctx, maxReadInterval)
	defer cancel()
	next, err := l.Store.Watch(wait, RevPrefix, index)
	if err != nil && wait.Err() != nil && ctx.Err() == nil {
		return index, nil
	}
	return next, err
}

// LanesKept is how long an unused lane stays, at least. The background work removes unused lanes in the rounds that
// examine everything.
const LanesKept = 10 * time.Minute

// ReadNotices reads the lanes and publishes new notices.
func (l *Ledger) ReadNotices(ctx context.Context, h *LanePositions) error {
	entries, _, err := l.ReadLanes(ctx, h.lanes)
	if err != nil {
		return err
	}
	lanes, gap := make(map[string]lanePosition, len(entries)), h.lanes == nil
	for _, e := range entries {
		if e.Key == RemovedLanesKey {
			continue
		}
		was, known := h.lanes[e.Key]
		if known && was.index == e.Index {
			lanes[e.Key] = was
			continue
		}
		var t LaneValue
		if err := Decode(e.Key, e.Value, &t); err != nil {
			return err
		}
		lanes[e.Key] = lanePosition{e.Index, t.Count}
		gap = !l.publishLane(e, t, was, h.lanes != nil) || gap
	}
	now := l.Clock.Steady()
	for key := range h.lanes {
		// Lanes that were not written for LanesKept are removed. A service that did not read them in that time does not
		// know their last notices.
		if _, there := lanes[key]; !there && now-h.readAt >= LanesKept {
			gap = true
		}
	}
	h.lanes, h.readAt = lanes, now
	if gap {
		l.Feed.Reset()
	}
	return nil
}

// publishLane publishes the new notices of a lane. It returns false if the lane no longer has some of them, or if a
// notice says that everything changed. It publishes nothing from a lane of this service. follows is false for the first
// read: the notices of that read are not published, because the caller resets the feed.
func (l *Ledger) publishLane(e store.Entry, t LaneValue, was lanePosition, follows bool) bool {
	if !follows || l.lanes.owns(e.Key) {
		return true
	}
	list, ok := t.After(was.count)
	for _, x := range list {
		l.Feed.Publish(x)
		l.Events.Publish(x.Events...)
		ok = ok && !x.All
	}
	return ok
}
