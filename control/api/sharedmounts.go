package api

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// SharedMountReport reports the use of a shared dataset by a node; see dataset.SharedMount.
type SharedMountReport struct {
	Incarnation uuid.UUID `json:"incarnation"` // incarnation of the agent that reports the shared mount
	Dataset     uuid.UUID `json:"dataset"`     // UUID of the dataset that the node uses
	ID          uuid.UUID `json:"id"`          // UUID of this use, chosen by the agent
	// the node has the dataset mounted already, so the use is recorded in any case
	Mounted bool `json:"mounted,omitempty"`
	Ended   bool `json:"ended,omitempty"` // the node unmounted the dataset, or no longer needs it exclusively
}

// SharedMountDetail is a shared mount as people see it.
type SharedMountDetail struct {
	dataset.SharedMount
	NodeName string `json:"node_name"` // name of the node that has the shared mount
	// The node is the home and uses the dataset exclusively: no other node may mount it meanwhile.
	Exclusive   bool `json:"exclusive,omitempty"`
	Unreachable bool `json:"unreachable,omitempty" doc:"the node is unreachable"`
	// An operator confirmed that the node is fenced, so this mount is ignored.
	Fenced     bool   `json:"fenced,omitempty"`
	MountCount int    `json:"mount_count" doc:"number of uses on the node, as last reported"`
	Problem    string `json:"problem,omitempty" doc:"why it cannot be mounted there, as last reported"`
}
