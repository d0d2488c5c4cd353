// Package promise is how a holder that control does not hear may go on: each node that
// could open the next epoch of a dataset promises not to, for a while. Holder and
// promiser each go by their own CLOCK_BOOTTIME, the holder from when it asked and for
// less long than the promiser, so that no clock has to agree with another.
package promise

import (
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Path is where a node's agent answers promise requests: POST, a Request, an Answer.
const Path = "/v1/peer/promise"

// MaxEpochs bounds the epochs of one request.
const MaxEpochs = 10_000

// Epoch names one epoch of a dataset.
type Epoch struct {
	Dataset uuid.UUID `json:"dataset"`
	Epoch   uint64    `json:"epoch"`
}

// Request asks a node to open no later epoch of these datasets for a while. Who asks is
// the node that the connection's certificate names.
type Request struct {
	Incarnation uuid.UUID `json:"incarnation"` // of the agent that asks
	Epochs      []Epoch   `json:"epochs"`
}

// Answer is what a node says to a Request: each epoch of that stands in one of both.
type Answer struct {
	// Node is who answers: a promise is that node's alone, whatever address it was asked at.
	Node    uuid.UUID `json:"node,omitzero"`
	Granted []Epoch   `json:"granted,omitempty"`
	Refused []Refusal `json:"refused,omitempty"`
	// For is how long the promise holds, by the promiser's clock, from when the request
	// came; the holder counts from when it sent it, and 0.6 of this.
	For dataset.Duration `json:"for,omitempty"`
}

// Bound is until when a holder may go on by an answer to what it sent at a moment of its
// own CLOCK_BOOTTIME.
func (a Answer) Bound(sent time.Duration) time.Duration {
	return sent + HeldFor(time.Duration(a.For))
}

// HeldFor is how long a word of control, or a promise, counts with who has it, of the time
// that it counts with who gave it: a fence that begins then is complete before that is over.
func HeldFor(span time.Duration) time.Duration { return span * 6 / 10 }

// Extend returns until when a holder may write that may until a moment: as its session lets
// it or, while control is silent, as all who could take over have promised, each until a
// moment of its own. Their promises carry on what is held, and never begin it: once it has
// lapsed one of them may have opened a later epoch, and another one after that. Where nobody
// could take over nobody has to promise.
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
