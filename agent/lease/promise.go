package lease

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
// identifies the node that asks.
type Request struct {
	Incarnation uuid.UUID `json:"incarnation"` // incarnation of the agent that asks
	Epochs      []Epoch   `json:"epochs"`
}

// Answer is the response to a Request. Each epoch of the request is either promised or refused.
type Answer struct {
	// Node is the node that answers. A promise binds only that node, whatever address was asked.
	Node    uuid.UUID `json:"node"`
	Granted []Epoch   `json:"granted,omitempty"`
	Refused []Refusal `json:"refused,omitempty"`
	// Duration is how long the promise holds, by the clock of the promising node, from the arrival of the request. The
	// holder relies on the promise for only 0.6 of this time, counted from when it sent the request.
	Duration dataset.Duration `json:"for,omitempty"`
}

// ValidUntil returns the time until which a holder may continue after this answer. sent is when the holder sent the
// request, by its own CLOCK_BOOTTIME.
func (a Answer) ValidUntil(sent time.Duration) time.Duration {
	return sent + HolderSpan(time.Duration(a.Duration))
}

// HolderSpan returns how long the holder may rely on a session or a promise of the given duration. It is shorter than
// the duration: a fence that begins when it ends is complete before control or the promising node considers the grant
// over.
func HolderSpan(span time.Duration) time.Duration { return span * 6 / 10 }

// Extend returns the time until which a holder may write. until is the time that applied before, and session is the
// time that the holder's session with control allows. The result is never earlier than either. now is the present time,
// and span is the duration of a session.
//
// If silent is true, control does not answer. Then promises count too: promised has, for each node that could take
// over, the time until which that node has promised to open no later epoch. The earliest of these times applies, but at
// most HolderSpan(span) from now. If no node could take over, promised is empty, and only that limit applies. Promises
// only extend a right to write that is still valid. Once the right has lapsed, a promise proves nothing: one of the
// nodes may have opened a later epoch meanwhile, and another node the epoch after that.
func Extend(until, session, now, span time.Duration, silent bool, promised []time.Duration) time.Duration {
	held := until > now
	until = max(until, session)
	if !held || !silent {
		return until
	}
	bound := now + HolderSpan(span)
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
