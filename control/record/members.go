package record

import (
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/google/uuid"
)

// Alive is the value of a node's key under live/. The key exists while its agent renews the session, through any
// service; so the value has the session.
type Alive struct {
	Node        uuid.UUID `json:"node"`
	Incarnation uuid.UUID `json:"incarnation"`
	Boot        string    `json:"boot"`
	Since       time.Time `json:"since"`
	Session     string    `json:"session"`
}

// Away is the value of a node's key under away/: since when the node is unreachable. The key is deleted in the
// transaction in which its agent registers again. While the key has the same index, the node was unreachable all
// the time.
type Away struct {
	Since time.Time        `json:"since"`
	Ran   dataset.Duration `json:"ran,omitempty"`  // for how long services had run on the store then
	Clock time.Time        `json:"clock,omitzero"` // the node's own clock when it was last heard; zero: not known
	Old   dataset.Duration `json:"old,omitempty"`  // how long ago that was, then
}

// Fenced is the value of a node's key under fenced/.
type Fenced struct {
	At time.Time `json:"at"`
	By string    `json:"by"` // who confirmed it
}

// TrashEntry is the value of a key of the trash: the count when the dataset was put there.
type TrashEntry struct {
	dataset.Trash
	Ran dataset.Duration `json:"ran,omitempty"`
}

// Of reports whether the entry is about the time that a dataset was put in the trash.
func (tr TrashEntry) Of(d dataset.Dataset) bool {
	return d.Trash.At.Equal(tr.At) && d.Trash.Until.Equal(tr.Until)
}

// Left returns how much of its time in the trash a dataset still has.
func (tr TrashEntry) Left(ran time.Duration) time.Duration {
	return tr.Until.Sub(tr.At) - (ran - time.Duration(tr.Ran))
}

// FailoverHalt is the value of FailoverKey. It exists while automatic failover is suspended.
type FailoverHalt struct {
	Since time.Time   `json:"since"`
	Nodes []uuid.UUID `json:"nodes"` // the nodes that vanished
}
