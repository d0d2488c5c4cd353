package api

import (
	"time"

	"github.com/droverhq/drover/dataset"
)

// Node is a node as people see it.
type Node struct {
	dataset.Node
	Facts *dataset.Facts `json:"facts,omitempty"` // facts of the host as last recorded; absent: none yet
	// the agent is reachable
	Live bool `json:"live"`
	// when the agent registered, or, if it is unreachable, since when; absent: not known
	StatusSince time.Time `json:"status_since,omitzero"`
	// the guard of the node answered at the last heartbeat
	GuardRunning bool `json:"guard_running,omitempty"`
	Fenced       bool `json:"fenced,omitempty"` // the node is unreachable, and an operator confirmed that it is fenced
}

// Cordoned sets whether new datasets may be placed on a node and, with Draining, whether the node's data is to
// leave it. Replicas leave by themselves, volumes when they are moved.
type Cordoned struct {
	Cordoned bool `json:"cordoned"`           // nothing new is placed on the node
	Draining bool `json:"draining,omitempty"` // data must leave the node; only with cordoned
}

// Fenced is an operator's confirmation that a node no longer writes.
type Fenced struct {
	Confirmed bool `json:"confirmed"` // the operator confirms that the node is fenced
}

// FailoverState is whether volumes with failover auto continue from a copy automatically.
type FailoverState struct {
	// why automatic failover is suspended, and what would help; empty: it is not
	Halted string `json:"halted,omitempty"`
	// since when automatic failover is suspended; absent: it is not
	HaltedSince time.Time `json:"halted_since,omitzero"`
}

// RemovedNode is a node that was removed.
type RemovedNode struct {
	dataset.Node
	Forgotten []string `json:"forgotten,omitempty" doc:"data that only this node had; its records were removed"`
}
