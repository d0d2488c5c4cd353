package record

import (
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/google/uuid"
)

// Alive is the value of a node's key under live/. The key exists while the agent renews the session. The value has the
// ID of the session, because the agent can renew the session through any service.
type Alive struct {
	Node        uuid.UUID `json:"node"`
	Incarnation uuid.UUID `json:"incarnation"`
	Boot        string    `json:"boot"`
	Since       time.Time `json:"since"`
	Session     string    `json:"session"`
}

// Unreachable is the value of a node's key under away/: since when the node is unreachable. The key is deleted in the
// transaction in which its agent registers again. As long as the key has the same index, the node was unreachable
// without interruption.
type Unreachable struct {
	Since    time.Time        `json:"since"`
	RunTime  dataset.Duration `json:"ran,omitempty"`     // running time of services (RunMark) at that moment
	Clock    time.Time        `json:"clock,omitzero"`    // the node's own clock when it was last heard; zero: not known
	ClockAge dataset.Duration `json:"old,omitempty"`     // how old Clock was when the record was written
	Guarded  bool             `json:"guarded,omitempty"` // the node's guard answered when the node was last heard
}

// Fenced is the value of a node's key under fenced/.
type Fenced struct {
	At time.Time `json:"at"`
	By string    `json:"by"` // who confirmed it
}

// TrashEntry is the value of a key of the trash. RunTime is the running time of services (RunMark) when the dataset
// was put in the trash.
type TrashEntry struct {
	dataset.Trash
	RunTime dataset.Duration `json:"ran,omitempty"`
}

// IsFor reports whether the entry belongs to the present stay of the dataset in the trash, and not to an earlier one.
func (tr TrashEntry) IsFor(d dataset.Dataset) bool {
	return d.Trash.At.Equal(tr.At) && d.Trash.Expires.Equal(tr.Expires)
}

// Remaining returns how much of its time in the trash a dataset still has.
func (tr TrashEntry) Remaining(ran time.Duration) time.Duration {
	return tr.Expires.Sub(tr.At) - (ran - time.Duration(tr.RunTime))
}

// FailoverHalt is the value of FailoverKey. It exists while automatic failover is suspended.
type FailoverHalt struct {
	Since time.Time   `json:"since"`
	Nodes []uuid.UUID `json:"nodes"` // the nodes that vanished
}
