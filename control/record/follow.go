package record

import (
	"context"
	"time"

	"github.com/droverhq/drover/control/store"
)

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
