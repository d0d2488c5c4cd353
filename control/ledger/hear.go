package ledger

import (
	"context"
	"time"

	"github.com/droverhq/drover/control/notify"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
)

// hearAgain is the pause after the store did not answer.
const hearAgain = time.Second

// hearPause is how long changes are gathered before they are read. It is shorter than a lane keeps them. Without
// the pause, a busy replica would read the lanes for each of its own transactions too.
const hearPause = 10 * time.Millisecond

// heard is a service's position in a lane.
type heard struct {
	index uint64
	count uint64
}

// Hearing is a service's position in all lanes.
type Hearing struct {
	lanes map[string]heard // nil: nothing was read yet, or the store was replaced
	at    time.Duration    // when they were read, by the steady clock
	told  bool             // it was reported that the store does not answer
}

// Hear publishes what other services on the store change, until ctx ends. It holds one watch, reads the
// lanes when it wakes, and writes nothing.
func (l *Ledger) Hear(ctx context.Context) {
	var h Hearing
	for index := uint64(0); ctx.Err() == nil; {
		next, err := l.awaitTidings(ctx, index)
		if err == nil {
			if next < index { // the store was restored from a backup
				h.lanes = nil
				l.restored()
			}
			err = l.HearNow(ctx, &h)
		}
		pause := hearPause
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			index, h.told = next, false
		default:
			pause = hearAgain
			if !h.told {
				h.told = true
				l.Failed("receive changes of other replicas", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-l.Clock.After(pause):
		}
	}
}

// hearAtLeast is how often the lanes are read when nothing changes: far more often than they are removed.
const hearAtLeast = 2 * time.Minute

func (l *Ledger) awaitTidings(ctx context.Context, index uint64) (uint64, error) {
	wait, cancel := context.WithTimeout(ctx, hearAtLeast)
	defer cancel()
	next, err := l.Store.Watch(wait, record.RevPrefix, index)
	if err != nil && wait.Err() != nil && ctx.Err() == nil {
		return index, nil
	}
	return next, err
}

// LanesKept is the minimum time for which an unused lane stays. The background work removes such lanes when it looks
// at everything.
const LanesKept = 10 * time.Minute

// HearNow reads the lanes and publishes new notices.
func (l *Ledger) HearNow(ctx context.Context, h *Hearing) error {
	entries, _, err := l.ReadLanes(ctx, h.lanes)
	if err != nil {
		return err
	}
	lanes, gap := make(map[string]heard, len(entries)), h.lanes == nil
	for _, e := range entries {
		if e.Key == record.DroppedKey {
			continue
		}
		was, known := h.lanes[e.Key]
		if known && was.index == e.Index {
			lanes[e.Key] = was
			continue
		}
		var t notify.Notices
		if err := record.Decode(e.Key, e.Value, &t); err != nil {
			return err
		}
		lanes[e.Key] = heard{e.Index, t.Count}
		gap = !l.hearLane(e, t, was, h.lanes != nil) || gap
	}
	now := l.Clock.Steady()
	for key := range h.lanes {
		// Lanes that were not written for LanesKept are removed. A service that did not read them in that time does not
		// know their last notices.
		if _, there := lanes[key]; !there && now-h.at >= LanesKept {
			gap = true
		}
	}
	h.lanes, h.at = lanes, now
	if gap {
		l.Feed.Forget()
	}
	return nil
}

// hearLane publishes the new notices of a lane. It returns false if the lane no longer has some of them.
func (l *Ledger) hearLane(e store.Entry, t notify.Notices, was heard, follows bool) bool {
	if !follows || l.out.own(e.Key) {
		return true
	}
	list, ok := t.Missed(was.count)
	for _, x := range list {
		l.Feed.Publish(x)
		l.Events.Publish(x.Events...)
		ok = ok && !x.All
	}
	return ok
}
