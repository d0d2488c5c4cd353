package api

import (
	"github.com/google/uuid"
)

// Recover requests the differences between a store that was restored from an older backup and the reports of the
// agents, or their correction.
type Recover struct {
	// Digest of the differences to correct, from an earlier answer; absent: they are only listed.
	Digest string `json:"digest,omitempty"`
	// Nodes that the operator confirms to be fenced: their claims are ignored.
	FencedNodes []string `json:"fenced_nodes,omitempty"`
	// Only decide: compare the store with the reports that were collected before, and change nothing.
	DryRun bool `json:"dry_run,omitempty"`
}

// Recovery has the differences between the store and the reports of the agents.
type Recovery struct {
	Digest string `json:"digest"` // identifies these differences in the request that corrects them
	// why changes are suspended; empty: changes are possible, and nothing must be corrected
	Halted        string   `json:"halted,omitempty"`
	ReportedNodes []string `json:"reported_nodes"` // nodes that reported their datasets
	// nodes that did not report; data that only they have is missing here
	SilentNodes []string           `json:"silent_nodes"`
	Differences []RecordDifference `json:"differences"`    // one entry for each dataset whose record differs
	Done        bool               `json:"done,omitempty"` // the store was corrected, and changes are possible again
}

// RecordAction is the change that a recovery of the store makes to the record of a dataset.
type RecordAction string

// The values of RecordAction.
const (
	RecordRestored  RecordAction = "restored"  // the volume exists again
	RecordTrashed   RecordAction = "trashed"   // the volume is in the trash
	RecordPurging   RecordAction = "purging"   // the volume was purged, and its home destroys the data
	RecordMoved     RecordAction = "moved"     // the volume has another home
	RecordChanged   RecordAction = "changed"   // the record becomes the one that the home reported
	RecordForgotten RecordAction = "forgotten" // no node has the dataset, and the record is removed
	RecordMissing   RecordAction = "missing"   // the home does not have the dataset, and the record stays
	RecordCopies    RecordAction = "copies"    // only the list of copies changes
	RecordSnapshots RecordAction = "snapshots" // only the list of snapshots changes
	RecordDisputed  RecordAction = "disputed"  // an operator must confirm that a node is fenced
)

// RecordDifference is the difference between the record of one dataset and the reports of the agents.
type RecordDifference struct {
	Dataset uuid.UUID `json:"dataset"` // UUID of the dataset
	Volume  string    `json:"volume"`  // name of the volume
	// change that the recovery makes to the record; missing: the home does not have the dataset; disputed: an operator
	// must confirm that a node is fenced; purging: the volume was purged, and its home destroys the data
	Action   RecordAction `json:"action"`
	InStore  string       `json:"in_store,omitempty"`  // state in the store; empty: none
	OnAgents string       `json:"on_agents,omitempty"` // state on the agents; empty: none
	Note     string       `json:"note,omitempty"`      // explanation for a person; empty: none
}

// RecoveryState describes the last recovery of the store to an agent, in a full response of Sync.
type RecoveryState struct {
	ID   uuid.UUID `json:"id"`             // UUID of the recovery
	Done bool      `json:"done,omitempty"` // whether the recovery has ended; false: the node must report its datasets
	// the report of the node is included in the recovered store
	ReportIncluded bool `json:"report_included,omitempty"`
}

// Holdings is everything that an agent holds, reported for a recovery.
type Holdings struct {
	Incarnation   uuid.UUID           `json:"incarnation"`    // incarnation of the agent that reports
	Recovery      uuid.UUID           `json:"recovery"`       // UUID of the recovery that the report is for
	StoreClock    uint64              `json:"store_clock"`    // highest store clock that the node knows
	ExaminedPools []uuid.UUID         `json:"examined_pools"` // UUIDs of pools that were examined completely
	Datasets      []FoundDataset      `json:"datasets"`       // datasets in the pools of the node
	Copies        []AssignedCopy      `json:"copies"`         // copies that the node keeps for other homes
	Relinquished  []RelinquishedEpoch `json:"relinquished"`   // epochs that the node relinquished
}

// RelinquishedEpoch is an epoch of a dataset that a node has relinquished.
type RelinquishedEpoch struct {
	Dataset uuid.UUID `json:"dataset"` // UUID of the dataset
	Epoch   uint64    `json:"epoch"`   // the epoch that the node relinquished
	ToNode  uuid.UUID `json:"to_node"` // UUID of the node that the dataset was relinquished to
}
