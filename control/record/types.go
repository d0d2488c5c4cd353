package record

import (
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/google/uuid"
)

// Claim is the value of keys under names/, snapnames/, home/, guests/ and work/: the UUID that the key stands for.
type Claim struct {
	ID uuid.UUID `json:"id"`
}

// UUIDPointer is the value of keys under by-uuid/: the dataset with that UUID, or the dataset of the snapshot with it.
type UUIDPointer struct {
	Dataset  uuid.UUID `json:"dataset"`
	Snapshot bool      `json:"snapshot,omitempty"`
}

// Generation is the value of a pool's key under generations/: the highest generation of the pool that was written to
// the store. Higher ones that a node reported only in passing are not written. It has a separate key so that it does
// not conflict with decisions about the pool.
type Generation struct {
	Pool    uuid.UUID `json:"pool"`
	Highest uint64    `json:"highest"`
}

// Recovery is the value of RecoveryKey.
type Recovery struct {
	ID            uuid.UUID   `json:"id"`
	Done          bool        `json:"done,omitempty"`
	ReportedNodes []uuid.UUID `json:"heard,omitempty"` // nodes whose reports it was made from
}

// Token is the record of a join token. The token cannot be derived from it: its key is the SHA-256 of the secret, which
// has 256 random bits, so the time that a lookup takes reveals nothing but the hash.
type Token struct {
	Name    string    `json:"name,omitempty"`
	Node    uuid.UUID `json:"node,omitzero"` // the removed node that may join again with it
	By      string    `json:"by"`
	Expires time.Time `json:"expires"`
	Used    *Use      `json:"used,omitempty"`
}

// Use records the node that joined with a token, so that a node that did not receive the response can repeat its
// request.
type Use struct {
	Node    uuid.UUID `json:"node"`
	Name    string    `json:"name"`
	Request string    `json:"request"` // SHA-256
	At      time.Time `json:"at"`
}

// Revocation records that the certificates of a node or operator are revoked. It is kept until the last of them has
// expired.
type Revocation struct {
	Node     uuid.UUID `json:"node,omitzero"`
	Operator string    `json:"operator,omitempty"`
	Name     string    `json:"name,omitempty"` // of the node
	By       string    `json:"by"`
	At       time.Time `json:"at"`
	Until    time.Time `json:"until"`
}

// RunMark is the value of RunMarkKey: for how long control services have run on the store. While Runs is set, the count
// continues from there. Otherwise it stops, so that the store is not written while nothing waits for the count, and no
// service is ahead of another. A transaction that stamps a record with the count, or acts on a stamp, checks the mark
// from which it counts. If the key is absent, the count is zero.
type RunMark struct {
	At      time.Time        `json:"at"` // by the clock
	RunTime dataset.Duration `json:"ran"`
	Runs    bool             `json:"runs,omitempty"`
}

// EndedOperation is the value of an operation's key once the operation is final.
type EndedOperation struct {
	dataset.Operation
	RunTime dataset.Duration `json:"ran,omitempty"`
}
