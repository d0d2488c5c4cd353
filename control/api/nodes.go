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
	// when the agent registered. If it is unreachable: when it became unreachable. Absent: not known.
	StatusSince time.Time `json:"status_since,omitzero"`
	// the guard of the node responded at the last heartbeat
	GuardRunning bool `json:"guard_running,omitempty"`
	Fenced       bool `json:"fenced,omitempty"` // the node is unreachable, and an operator confirmed that it is fenced
	// the node is draining, and no volume has its home there and no replica is left; the trash does not count
	Drained bool `json:"drained,omitempty"`
}

// Cordoned sets whether new datasets may be placed on a node. With Draining, the data of the node must also leave it:
// replicas leave automatically, and volumes when they are moved.
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
	// why automatic failover is suspended, and how to end the suspension; empty: it is not suspended
	Halted string `json:"halted,omitempty"`
	// when automatic failover was suspended; absent: it is not suspended
	HaltedSince time.Time `json:"halted_since,omitzero"`
}

// NodeRemoval is how a node is removed.
type NodeRemoval struct {
	Force  bool // also while volumes have their home there, or it has data that no other node has
	DryRun bool // only decide, and change nothing
}

// RemovedNode is a node that was removed.
type RemovedNode struct {
	dataset.Node
	Live bool `json:"live,omitempty" doc:"only in a preview: the agent of the node is reachable"`
	// Some of the volumes whose home the node is; they cannot be used until they have another home.
	Homes     []string `json:"homes,omitempty"`
	Forgotten []string `json:"forgotten,omitempty" doc:"data that only this node had; its records were removed"`
	// Volumes whose only replica the node has: until another node has one, only their homes have their data.
	Unprotected []string `json:"unprotected,omitempty"`
}
