package dataset

import (
	"strings"
	"time"

	"github.com/google/uuid"
)

// Operation is one recorded piece of work.
type Operation struct {
	// UUID of the operation; a retry sends the same
	ID    uuid.UUID `json:"id"`
	Kind  OpKind    `json:"kind"`  // kind of the operation
	State OpState   `json:"state"` // state of the operation
	Node  uuid.UUID `json:"node"`  // UUID of the node whose agent carries it out
	// digest of the request, so that another request cannot use its ID
	RequestDigest string `json:"request_digest,omitempty"`
	// ID of the request of a user or an engine that the operation belongs to, for logs; absent: none
	RequestID string `json:"request_id,omitempty"`
	// who requested the operation: a user of a host, as NAME (uid UID), an operator's certificate, an engine, or
	// schedule; on a node of a cluster, with the name of the node; absent: Drover itself, or not known
	By string `json:"by,omitempty"`
	// name of the volume that the operation changes
	Volume string `json:"volume,omitempty"`
	// UUID of the dataset that the operation changes
	DatasetID uuid.UUID `json:"dataset_id"`
	// Discarded is the UUID of a dataset that this operation made and removed again, because an identical request had
	// made the volume first. DatasetID is then the UUID of the dataset of that volume.
	Discarded uuid.UUID `json:"discarded,omitzero"`
	Epoch     uint64    `json:"epoch"` // epoch of the dataset when the operation was planned
	// record of the dataset after the operation
	DatasetRecord *Dataset `json:"dataset_record,omitempty"`
	// the snapshot that the operation makes or deletes; absent: none
	Snapshot *Snapshot `json:"snapshot,omitempty"`
	Source   *Source   `json:"source,omitempty"` // the source of a clone; absent: it is no clone
	// Options are the requested options. A create has those of -o. An update, and a resize that changes the profile,
	// has the changes as profile, protect, label.KEY or unlabel.KEY. An update to failover auto also has
	// failover, and replaces: the former profile as NAME@REVISION.
	Options map[string]string `json:"options,omitempty"`
	// description of the change for people, with the words of its event; absent: the kind is enough, or it is not known
	Change string `json:"change,omitempty"`
	// name of the repository that a backup or a push goes to, or that an import reads a backup from; absent: none
	Repository string `json:"repository,omitempty"`
	// ID of the backup that the operation has made, or that an import reads; absent: none
	Backup string `json:"backup,omitempty"`
	Push   *Push  `json:"push,omitempty"` // where a push puts the volume; absent: it is no push
	// verify: UUID of the dataset that was backed up; absent: it is not recorded, or not known
	BackupOf uuid.UUID `json:"backup_of,omitzero"`
	// verify: moment of the content of the backup, by the clock of the node that made it; absent: not known
	Taken time.Time `json:"taken,omitzero"`
	// verify: path of the program that checks the restored volume; absent: none
	Check string `json:"check,omitempty"`
	// verify: the check program found the restored volume not usable
	Refused    bool  `json:"refused,omitempty"`
	Scheduled  bool  `json:"scheduled,omitempty"`   // the profile's schedule requested the backup or verification
	BytesAdded int64 `json:"bytes_added,omitempty"` // bytes of data that a backup or push added
	// ID of the earlier backup whose unchanged files a backup or push does not read; absent: it reads everything
	Parent string `json:"parent,omitempty"`
	// why a backup or push reads everything; absent: it does not
	ReadsAll string `json:"reads_all,omitempty"`
	// session of the volume in which the parent was made: see mounting.Watcher
	ParentSession string `json:"parent_session,omitempty" hidden:"true"`
	// value of content of the dataset when a backup or push was planned
	Content uint64 `json:"content,omitempty"`
	// session of the volume in which an exact clone was made for a backup or push; absent: the clone was not exact
	ExactSession string `json:"exact_session,omitempty" hidden:"true"`
	// backup and push: a text that says which files of the volume the backup lacks; absent: none that Drover looks for
	Lacks string `json:"lacks,omitempty"`
	// path that an import reads, or the file with the old key for a rekey
	Path string `json:"path,omitempty"`
	Live bool   `json:"live,omitempty"` // the source of the import may be in use
	// UUID of the other node that takes part. For a move: the previous home. For a discard, show or hide: the node with
	// the copy. For a delete without the home: the home. For an operation that makes a dataset: the node that requested
	// it. Absent: no other node takes part.
	OtherNode uuid.UUID `json:"other_node,omitzero"`
	// the move copies file by file, without snapshots, because the pools differ in kind
	FileCopy bool `json:"file_copy,omitempty"`
	// the move copies nothing, because both pools are on the same share
	SameShare bool `json:"same_share,omitempty"`
	// content that the home relinquished for the move; absent: it has not yet
	Manifest *Manifest `json:"manifest,omitempty"`
	// mount IDs that still prevent the home from relinquishing the volume
	InUseBy     []string  `json:"in_use_by,omitempty"`
	Loss        *Loss     `json:"loss,omitempty"`       // data that a move without the home loses; absent: none
	Problem     *Problem  `json:"problem,omitempty"`    // why the operation failed; absent: it did not fail
	Progress    Progress  `json:"progress"`             // how far the operation has come
	Incarnation uuid.UUID `json:"incarnation,omitzero"` // incarnation of the agent that carries the operation out
	Created     time.Time `json:"created"`              // when the operation was recorded
	Ended       time.Time `json:"ended,omitzero"`       // when the operation ended; absent: it has not ended
}

// OpKind is the kind of an operation.
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
	OpRekey          OpKind = "rekey"      // wraps the data key with another key of the operator
	OpBackup         OpKind = "backup"     // copies the head or a snapshot to a repository; changes no record
	OpPush           OpKind = "push"       // a backup that also gets an entry in the history of a name in a repository
	OpVerify         OpKind = "verify"     // restores a backup into a dataset that is removed again; changes no record
	OpUpdate         OpKind = "update"     // changes profile, protection or labels: see Action
	OpRename         OpKind = "rename"     // gives a volume another name; the former one becomes an alias: only records
	OpDropAlias      OpKind = "drop-alias" // ends an alias of a volume: only records
	OpDelete         OpKind = "delete"     // removes the name, and puts the data in the trash
	OpUndelete       OpKind = "undelete"   // brings a dataset back from the trash
	OpPurge          OpKind = "purge"      // destroys the data
	OpMove           OpKind = "move"       // changes the home
	OpDiscard        OpKind = "discard"    // destroys a superseded copy
	OpShow           OpKind = "show"       // mounts a superseded copy read-only on its node, for a person to look at
	OpHide           OpKind = "hide"       // unmounts the superseded copy again
)

// OpState is the state of an operation.
type OpState string

// The states of an operation. Done, failed and cancelled are final.
const (
	OpPending   OpState = "pending"
	OpRunning   OpState = "running"
	OpDone      OpState = "done"
	OpFailed    OpState = "failed"
	OpCancelled OpState = "cancelled"
)

// Final reports whether the state never changes again.
func (s OpState) Final() bool { return s == OpDone || s == OpFailed || s == OpCancelled }

// The keys of Operation.Options for an update. The key of a label follows OptionLabel and OptionUnlabel.
const (
	OptionProfile = "profile"
	OptionProtect = "protect" // true or false
	OptionLabel   = "label."  // its value is that of the label
	OptionUnlabel = "unlabel."
)

// Action names what was requested, as the command line does: set-profile, protect, unprotect or label for an update,
// and the kind of the operation otherwise. The value is for a person and for lists; programs that carry out the
// operation use Kind.
func (op Operation) Action() string {
	if op.Kind != OpUpdate && op.Kind != OpResize {
		return string(op.Kind)
	}
	for key, value := range op.Options {
		switch {
		case key == OptionProfile:
			return "set-profile"
		case op.Kind == OpResize:
		case key == OptionProtect && value == "true":
			return "protect"
		case key == OptionProtect:
			return "unprotect"
		case strings.HasPrefix(key, OptionLabel), strings.HasPrefix(key, OptionUnlabel):
			return "label"
		}
	}
	return string(op.Kind)
}

// Source names the data that a clone starts with: a snapshot of a dataset, or, if Snapshot is uuid.Nil, the
// dataset as it is now.
type Source struct {
	Dataset  uuid.UUID `json:"dataset"`           // UUID of the source dataset
	Snapshot uuid.UUID `json:"snapshot,omitzero"` // UUID of the source snapshot
}

// Problem is a recorded error: the code of its kind, and its text.
type Problem struct {
	Code    string `json:"code"`    // stable code of the kind of error
	Message string `json:"message"` // the error, for a person
	// who uses the dataset on the node that refused the operation; absent: not examined
	Holders *Holders `json:"holders,omitempty"`
}

// ProblemOf returns err as a record, in one line, truncated if it is too long for the store; nil for a nil error.
func ProblemOf(err error) *Problem {
	if err == nil {
		return nil
	}
	return &Problem{Code: KindOf(err).Code, Message: OneLine(err), Holders: HoldersOf(err)}
}

// Err returns the problem as an error of the same kind and text.
func (p *Problem) Err() error {
	if p == nil {
		return nil
	}
	err := Errorf(KindByCode(p.Code), "%s", p.Message)
	if p.Holders != nil {
		return WithHolders(err, *p.Holders)
	}
	return err
}

// Progress is how far an operation is.
type Progress struct {
	Step  string `json:"step,omitempty"`  // the current step; empty: not known
	Done  int64  `json:"done,omitempty"`  // bytes
	Total int64  `json:"total,omitempty"` // bytes; 0: not known
	// nothing is done until something outside of the operation happens, such as the return of a pool
	Waiting bool `json:"waiting,omitempty"`
}
