package dataset

import (
	"time"

	"github.com/google/uuid"
)

// Operation is one piece of work on record.
type Operation struct {
	ID        uuid.UUID `json:"id"`               // UUID of the operation; a retry sends the same
	Kind      OpKind    `json:"kind"`             // kind of the operation
	State     OpState   `json:"state"`            // state of the operation
	Node      uuid.UUID `json:"node"`             // whose agent does it
	Asked     string    `json:"asked,omitempty"`  // digest of the request: another one cannot have its ID
	Volume    string    `json:"volume,omitempty"` // name of the volume that the operation changes
	DatasetID uuid.UUID `json:"dataset_id"`       // UUID of the dataset that the operation changes
	// Discarded is set in an operation that was to make a dataset and is done because an identical request
	// made the volume first. It is what this operation made and took back; DatasetID is the volume's.
	Discarded uuid.UUID `json:"discarded,omitzero"`
	Epoch     uint64    `json:"epoch"` // of the dataset when this was planned
	// the record that is to be; of a delete that is done, as it left it
	Dataset  *Dataset  `json:"dataset,omitempty"`
	Snapshot *Snapshot `json:"snapshot,omitempty"` // the snapshot that the operation makes or deletes; absent: none
	Source   *Source   `json:"source,omitempty"`   // what a clone is made of
	// Options is what was asked for: of a create as with -o, of a resize the
	// profile when it is for that.
	Options map[string]string `json:"options,omitempty"`
	// what an import reads, or of a rekey the file of the old key
	Path string `json:"path,omitempty"`
	Live bool   `json:"live,omitempty"` // an import whose source may be in use
	// of a move: the home that is left; its agent yields, Node's pulls. Of a discard, show or hide: whose
	// copy it is about. Of a delete: the home, which it goes without. Of what makes a dataset: the node that
	// asked for it; nil: none did
	From uuid.UUID `json:"from,omitzero"`
	// of a move: file by file, as the pools are unlike, and without snapshots
	Files bool `json:"files,omitempty"`
	// of a move: nothing is copied, as both pools lie on one share
	Share    bool      `json:"share,omitempty"`
	Manifest *Manifest `json:"manifest,omitempty"` // of a move: what the home gave up, once it has
	// of a move: mount IDs for which the home could not give up yet
	Holders     []string  `json:"holders,omitempty"`
	Loss        *Loss     `json:"loss,omitempty"`       // of a move that goes without the home: what that loses
	Problem     *Problem  `json:"problem,omitempty"`    // why the operation failed; absent: it did not fail
	Progress    Progress  `json:"progress"`             // how far the operation has come
	Incarnation uuid.UUID `json:"incarnation,omitzero"` // incarnation of the agent that carries the operation out
	Created     time.Time `json:"created"`              // when the operation was recorded
	Ended       time.Time `json:"ended,omitzero"`       // when the operation ended; absent: it has not ended
}

// OpKind says what an operation does.
type OpKind string

// The kinds of operations.
const (
	OpCreate         OpKind = "create"
	OpClone          OpKind = "clone"
	OpImport         OpKind = "import"
	OpSnapshot       OpKind = "snapshot"
	OpSnapshotDelete OpKind = "snapshot-delete"
	OpRestore        OpKind = "restore"
	OpResize         OpKind = "resize"
	OpRekey          OpKind = "rekey"    // the data key is wrapped by another key of the operator
	OpRewrite        OpKind = "rewrite"  // the head is written anew, in few pieces
	OpUpdate         OpKind = "update"   // profile, labels, protection: records only
	OpDelete         OpKind = "delete"   // the name goes, the data to trash
	OpUndelete       OpKind = "undelete" // and comes back
	OpPurge          OpKind = "purge"    // the data goes
	OpMove           OpKind = "move"     // the home becomes another
	OpDiscard        OpKind = "discard"  // a copy goes whose head was overtaken
	OpShow           OpKind = "show"     // it is mounted on its node, read-only, for a person to look at
	OpHide           OpKind = "hide"     // and no more
)

// OpState is where an operation is.
type OpState string

// The states of an operation. Done, failed and cancelled are final.
const (
	OpPending   OpState = "pending"
	OpRunning   OpState = "running"
	OpDone      OpState = "done"
	OpFailed    OpState = "failed"
	OpCancelled OpState = "cancelled"
)

// Final reports whether the state is one that never changes again.
func (s OpState) Final() bool { return s == OpDone || s == OpFailed || s == OpCancelled }

// Source names the bytes that a clone starts with: a snapshot of a dataset, or
// with a nil Snapshot the dataset as it is now.
type Source struct {
	Dataset  uuid.UUID `json:"dataset"`           // UUID of the source dataset
	Snapshot uuid.UUID `json:"snapshot,omitzero"` // UUID of the source snapshot
}

// Problem is an error on record: its kind's code and its line.
type Problem struct {
	Code    string `json:"code"`    // stable code of the kind of error
	Message string `json:"message"` // the error, for a person
}

// ProblemOf puts err on record, in one line that is cut off where it is too long, as
// what is too large for the store would never be there; nil for a nil error.
func ProblemOf(err error) *Problem {
	if err == nil {
		return nil
	}
	return &Problem{Code: KindOf(err).Code, Message: OneLine(err)}
}

// Err makes the problem an error again, of the same kind and text.
func (p *Problem) Err() error {
	if p == nil {
		return nil
	}
	return Errorf(KindByCode(p.Code), "%s", p.Message)
}

// Progress is how far an operation is.
type Progress struct {
	Step  string `json:"step,omitempty"`  // the current step; empty: not known
	Done  int64  `json:"done,omitempty"`  // bytes
	Total int64  `json:"total,omitempty"` // bytes; 0: not known
}
