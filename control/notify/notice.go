package notify

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
)

// Notice is what one transaction changed, for the agents and people that wait.
type Notice struct {
	Nodes    []uuid.UUID `json:"n,omitempty"`
	Datasets []uuid.UUID `json:"d,omitempty"`
	Ops      []uuid.UUID `json:"o,omitempty"`
	Events   []api.Event `json:"e,omitempty"`
	// Answered says that the agents of Nodes have all of it from the answer to what they
	// asked: they hear of it with the next change, or when their question ends.
	Answered bool `json:"a,omitempty"`
	All      bool `json:"all,omitempty"` // everybody is to look at everything
	House    bool `json:"h,omitempty"`   // who does the background work is
}

// Empty reports whether the notice tells nobody anything.
func (t Notice) Empty() bool {
	return len(t.Nodes) == 0 && len(t.Ops) == 0 && len(t.Events) == 0 && !t.All && !t.House
}

// Notices is the value of a lane.
type Notices struct {
	Count  uint64   `json:"count"` // of the values that were written to the lane
	Recent []Notice `json:"recent"`
}

// Missed returns what was told in a lane after the count-th value; ok is false when
// some of it is not there any more.
func (t Notices) Missed(count uint64) (list []Notice, ok bool) {
	if t.Count < count || t.Count-count > uint64(len(t.Recent)) {
		return nil, false
	}
	return t.Recent[len(t.Recent)-int(t.Count-count):], true
}
