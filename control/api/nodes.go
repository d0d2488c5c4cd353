package api

import (
	"time"

	"github.com/droverhq/drover/dataset"
)

// Node is a node as people see it.
type Node struct {
	dataset.Node
	Facts *dataset.Facts `json:"facts,omitempty"` // as of the last change that counts; nil: not told yet
	// Live says that its agent is heard of. Since is when it registered, or is not
	// heard of since; zero: not known.
	Live bool `json:"live"`
	// when the agent registered, or, if it is unreachable, since when; absent: not known
	Since time.Time `json:"since,omitzero"`
	// Guarded says that its guard answered when it was heard last; Fenced, of one that is
	// away, that a person vouches that it writes no more.
	Guarded bool `json:"guarded,omitempty"`
	Fenced  bool `json:"fenced,omitempty"` // the node is unreachable, and an operator confirmed that it is fenced
}

// Cordoned sets whether new datasets may be placed on a node and, with Draining, whether the node's data is to
// leave it. Replicas leave by themselves, volumes when they are moved.
type Cordoned struct {
	Cordoned bool `json:"cordoned"`           // nothing new is placed on the node
	Draining bool `json:"draining,omitempty"` // only what is cordoned is drained
}

// Fenced is an operator's confirmation that a node no longer writes.
type Fenced struct {
	Confirmed bool `json:"confirmed"` // the operator confirms that the node is fenced
}

// FailoverState is whether volumes with failover auto continue from a copy automatically.
type FailoverState struct {
	Halted string    `json:"halted,omitempty"` // why they do not, and what would help; empty: they do
	Since  time.Time `json:"since,omitzero"`   // since when decisions are halted; absent: they are not
}

// Removed is a node that was removed.
type Removed struct {
	dataset.Node
	Forgotten []string `json:"forgotten,omitempty" doc:"what it kept and nobody else has, which is on record no more"`
}
