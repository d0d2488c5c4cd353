package record

import (
	"sync"
	"time"

	"github.com/droverhq/drover/control/api"
)

// EventsKept is the minimum number of past events that the log keeps.
const EventsKept = 1024

// EventLog keeps the newest events, and wakes the callers that wait for the next one.
type EventLog struct {
	mu      sync.Mutex
	Ring    []api.Event   // with consecutive IDs
	Next    uint64        // ID of the next event
	waiting chan struct{} // closed at the next event
}

// NewEventLog returns an empty log. The first ID is the present time, so that the IDs are above those of an earlier
// run. A reader that continues after an event of an earlier run gets all events of this run.
func NewEventLog(now time.Time) *EventLog {
	return &EventLog{Next: uint64(max(now.UnixMicro(), 1)), waiting: make(chan struct{})}
}

// Publish gives each event the next ID, keeps it, and wakes the callers that wait.
func (e *EventLog) Publish(evs ...api.Event) {
	if len(evs) == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range evs {
		ev.ID = e.Next
		e.Next++
		e.Ring = append(e.Ring, ev)
	}
	if over := len(e.Ring) - EventsKept; over > EventsKept {
		e.Ring = append([]api.Event(nil), e.Ring[over:]...)
	}
	close(e.waiting)
	e.waiting = make(chan struct{})
}

// After returns the kept events after an ID, and a channel that is closed at the next event. If the ID has not been
// given out yet, as after a restart with a clock that was set back, After returns all kept events.
func (e *EventLog) After(id uint64) ([]api.Event, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	first := e.Next - uint64(len(e.Ring))
	skip := uint64(0)
	if id >= first && id < e.Next {
		skip = id - first + 1
	}
	return append([]api.Event(nil), e.Ring[skip:]...), e.waiting
}
