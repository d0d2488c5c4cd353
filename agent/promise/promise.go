// Package promise lets a holder of a lease continue while it cannot reach control: each node that could open the next
// epoch of a dataset promises not to do so for some time.
//
// Holder and promiser each measure that time by their own CLOCK_BOOTTIME. The holder counts from when it asked, and
// counts less time than the promiser, so the clocks of two hosts need not agree.
package promise

import (
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Path is where a node's agent answers promise requests: POST with a Request; the response is an Answer.
const Path = "/v1/peer/promise"

// MaxEpochs bounds the epochs of one request.
const MaxEpochs = 10_000

// Epoch names one epoch of a dataset.
type Epoch struct {
	Dataset uuid.UUID `json:"dataset"`
	Epoch   uint64    `json:"epoch"`
}

// Request asks a node to open no later epoch of these datasets for some time. The certificate of the connection
// says which node asks.
type Request struct {
	Incarnation uuid.UUID `json:"incarnation"` // incarnation of the agent that asks
	Epochs      []Epoch   `json:"epochs"`
}

// Answer is the response to a Request. Each epoch of the request is either promised or refused.
type Answer struct {
	// Node is the node that answers: a promise is only that node's, whatever address was asked.
	Node    uuid.UUID `json:"node,omitzero"`
	Granted []Epoch   `json:"granted,omitempty"`
	Refused []Refusal `json:"refused,omitempty"`
	// For is how long the promise holds, by the promiser's clock, from the arrival of the request. The holder
	// counts from when it sent the request, and only 0.6 of this time.
	For dataset.Duration `json:"for,omitempty"`
}

// Bound returns until when a holder may continue after an answer to a request that it sent at a moment of its own
// CLOCK_BOOTTIME.
func (a Answer) Bound(sent time.Duration) time.Duration {
	return sent + HeldFor(time.Duration(a.For))
}

// HeldFor is for which part of its duration a grant of control, or a promise, is valid for the holder: a fence
// that begins at that time is complete before the grant ends for its giver.
func HeldFor(span time.Duration) time.Duration { return span * 6 / 10 }

// Extend returns until when a holder may write: as its session allows or, while control does not answer, as all
// nodes that could take over have promised, each until a moment of its own. Their promises extend what is held,
// and never start it: once it has lapsed, one of them may have opened a later epoch, and another one after that.
// If nobody could take over, nobody has to promise.
func Extend(until, session, now, span time.Duration, silent bool, promised []time.Duration) time.Duration {
	held := until > now
	until = max(until, session)
	if !held || !silent {
		return until
	}
	bound := now + HeldFor(span)
	for _, p := range promised {
		bound = min(bound, p)
	}
	return max(until, bound)
}

// Refusal says why there is no promise.
type Refusal struct {
	Epoch
	Why string `json:"why"`
}
