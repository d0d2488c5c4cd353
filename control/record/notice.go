package record

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
)

// Notice lists the changes of one transaction, for the callers that wait for them.
type Notice struct {
	Nodes    []uuid.UUID `json:"n,omitempty"`
	Datasets []uuid.UUID `json:"d,omitempty"`
	Ops      []uuid.UUID `json:"o,omitempty"`
	Events   []api.Event `json:"e,omitempty"`
	// InResponse says that the agents of Nodes learn everything from the response to their request, so they are not
	// woken. These agents get this change with their next response.
	InResponse   bool `json:"a,omitempty"`
	All          bool `json:"all,omitempty"` // all readers must read everything again
	Housekeeping bool `json:"h,omitempty"`   // the replica that does the background work must examine everything
}

// Empty reports whether the notice contains nothing.
func (t Notice) Empty() bool {
	return len(t.Nodes) == 0 && len(t.Ops) == 0 && len(t.Events) == 0 && !t.All && !t.Housekeeping
}

// LaneValue is the value of a lane.
type LaneValue struct {
	Count  uint64   `json:"count"` // how many values were written to the lane
	Recent []Notice `json:"recent"`
}

// After returns the notices of the values that were written to a lane after the count-th one. Each value added one
// notice. ok is false if the lane no longer has all of these notices.
func (t LaneValue) After(count uint64) (list []Notice, ok bool) {
	if t.Count < count || t.Count-count > uint64(len(t.Recent)) {
		return nil, false
	}
	return t.Recent[len(t.Recent)-int(t.Count-count):], true
}
