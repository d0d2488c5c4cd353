package api

import (
	"github.com/google/uuid"
)

// Recover asks how a store that was restored from an older backup differs from what agents hold, or asks to
// update it.
type Recover struct {
	Confirm string   `json:"confirm,omitempty" doc:"the digest of the differences that are to be mended; left out: they are only looked for"`
	Fenced  []string `json:"fenced,omitempty" doc:"nodes that write no more, on the word of who asks: what they claim does not count"`
}

// Recovery is how a store differs from what agents hold.
type Recovery struct {
	Digest string `json:"digest"` // names all of it; to be confirmed
	// why nothing is decided; empty: it is, and there is nothing to mend
	Halted    string    `json:"halted,omitempty"`
	Heard     []string  `json:"heard"`          // nodes that told what they hold
	Silent    []string  `json:"silent"`         // nodes that did not: what they alone know is not here
	Different []Differs `json:"different"`      // one entry for each dataset whose record differs
	Done      bool      `json:"done,omitempty"` // it is brought up to date, and decisions are made again
}

// Differs is how the record of one dataset differs from what agents hold.
type Differs struct {
	Dataset uuid.UUID `json:"dataset"` // UUID of the dataset
	Volume  string    `json:"volume"`  // name of the volume
	// Action is what mends it: restored, trashed, moved, changed, forgotten, copies,
	// snapshots; missing, when its home does not have it; or disputed, when that takes a
	// person's word.
	Action string `json:"action" enum:"restored,trashed,moved,changed,forgotten,missing,copies,snapshots,disputed"`
	Store  string `json:"store,omitempty"`  // what the store says; empty: nothing
	Agents string `json:"agents,omitempty"` // what agents say; empty: nothing
	Note   string `json:"note,omitempty"`   // explanation for a person; empty: none
}

// Recovering is the last recovery of the store, in a full answer of Sync.
type Recovering struct {
	ID   uuid.UUID `json:"id"`             // UUID of the recovery
	Done bool      `json:"done,omitempty"` // false: the node is to tell what it holds
	// Heard says that what the node held is in the store that came of it.
	Heard bool `json:"heard,omitempty"`
}

// Holdings is everything that an agent holds, reported for a recovery.
type Holdings struct {
	Incarnation uuid.UUID   `json:"incarnation"` // incarnation of the agent that reports
	Recovery    uuid.UUID   `json:"recovery"`    // UUID of the recovery that the report is for
	Clock       uint64      `json:"clock"`       // the highest that it has heard of; see Sync
	Pools       []uuid.UUID `json:"pools"`       // that it looked into: what is not among Found is not in them
	Found       []Found     `json:"found"`       // datasets in the pools of the node
	Copies      []Kept      `json:"copies"`      // copies that the node keeps for other homes
	Given       []Given     `json:"given"`       // epochs that the node relinquished
}

// Given is an epoch of a dataset that a node has relinquished.
type Given struct {
	Dataset uuid.UUID `json:"dataset"` // UUID of the dataset
	Epoch   uint64    `json:"epoch"`   // the epoch that the node relinquished
	To      uuid.UUID `json:"to"`      // UUID of the node that the dataset was relinquished to
}
