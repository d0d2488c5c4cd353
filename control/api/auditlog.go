package api

import (
	"time"

	"github.com/google/uuid"
)

// Change is one line of the audit log: a change, a read of a whole volume or store, or a request for one of these
// that was refused.
type Change struct {
	Time    time.Time    `json:"time"` // when the change ended; set by the audit log
	Who     string       `json:"who"`
	From    string       `json:"from,omitempty"` // address of the caller, or its user on this host
	What    string       `json:"what"`           // operation ID of the endpoint, or the method and path
	Kind    string       `json:"kind,omitempty"` // kind of the operation
	Node    string       `json:"node,omitempty"`
	Target  string       `json:"target,omitempty"` // the volume, dataset, pool, token … that was changed or read
	ID      uuid.UUID    `json:"operation,omitzero"`
	Request string       `json:"request,omitempty"` // ID of the request; absent: background work of an agent
	Detail  string       `json:"detail,omitempty"`
	Bytes   int64        `json:"bytes,omitempty"` // number of bytes of the volume or store that were sent to the caller
	Outcome ChangeResult `json:"outcome"`
	Code    string       `json:"code,omitempty"`  // code of the problem
	Error   string       `json:"error,omitempty"` // text of the problem, in one line
}

// ChangeResult is the outcome of a change.
type ChangeResult string

// The outcomes of a change.
const (
	Done    ChangeResult = "done"
	Refused ChangeResult = "refused" // the caller may not do that
	Failed  ChangeResult = "failed"
)
