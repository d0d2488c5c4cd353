package api

import (
	"time"

	"github.com/google/uuid"
)

// Change is one line of the audit log: a change, a read of a whole volume or store, or a refused request for
// either.
type Change struct {
	Time    time.Time `json:"time"` // when it ended; set by who keeps the log
	Who     string    `json:"who"`
	From    string    `json:"from,omitempty"` // address, or user of the host
	What    string    `json:"what"`           // operation ID of the endpoint, or the method and path
	Kind    string    `json:"kind,omitempty"` // of the operation
	Node    string    `json:"node,omitempty"`
	Target  string    `json:"target,omitempty"` // the volume, dataset, pool, token … that it is about
	ID      uuid.UUID `json:"operation,omitzero"`
	Detail  string    `json:"detail,omitempty"`
	Bytes   int64     `json:"bytes,omitempty"` // of a volume or the store that went to the caller
	Outcome Outcomes  `json:"outcome"`
	Code    string    `json:"code,omitempty"`  // of the problem
	Error   string    `json:"error,omitempty"` // its line
}

// Outcomes is how a change ended.
type Outcomes string

// How a change ends.
const (
	Done    Outcomes = "done"
	Refused Outcomes = "refused" // the caller may not do that
	Failed  Outcomes = "failed"
)
