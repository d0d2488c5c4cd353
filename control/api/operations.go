package api

import (
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// OperationRetention is how long control keeps the record of an ended operation, except those of scheduled snapshots.
// If there are too many records, it removes the oldest earlier, and those of failed moves and cancelled operations
// last.
const OperationRetention = 24 * time.Hour

// Request asks for one change of one volume, snapshot or dataset. Control makes a plan from it. Kind decides which of
// the other fields are used.
type Request struct {
	// UUID of the operation, chosen by the caller, so that control recognises a retry
	ID   uuid.UUID      `json:"id,omitzero"`
	Kind dataset.OpKind `json:"kind"` // kind of the change
	// For create, clone and import: the spec of the new volume. For verify: the spec of the volume that was backed up.
	// Otherwise: the volume or dataset, by name or by a unique prefix of its UUID.
	Volume string `json:"volume,omitempty"`
	// Ref is the parsed Volume of a create, clone, import or verify. The plugin sets it for the requests of engines.
	// For other requests, Parsed sets it.
	Ref dataset.Reference `json:"-"`
	// RequestID is the ID of the request that control received, for the record of the operation.
	RequestID string `json:"-"`
	// options of the new volume, by name; an option that is absent has the value of the profile
	Options  map[string]string `json:"options,omitempty"`
	Snapshot string            `json:"snapshot,omitempty"` // name or UUID prefix of the snapshot
	// name of the new snapshot, of a volume that is restored from the trash, or of a renamed volume; drop-alias: the
	// alias; delete: the name that the volume must have, absent: any; push: the name in the repository, absent: that of
	// the volume
	Name    string `json:"name,omitempty"`
	Message string `json:"message,omitempty"` // free text that is kept with a snapshot
	Size    string `json:"size,omitempty"`    // new size, such as 10GiB
	Profile string `json:"profile,omitempty"` // set-profile: name of the new profile
	// whether the volume is protected against deletion; absent: unchanged
	Protect *bool `json:"protect,omitempty"`
	// update: labels to set and to remove; absent: unchanged
	Labels *dataset.LabelChange `json:"labels,omitempty"`
	// backup and push: name of the recorded repository to write to; import: the one to read a backup from
	Repository string `json:"repository,omitempty"`
	Backup     string `json:"backup,omitempty"` // import: ID of the backup to read, 64 hexadecimal digits
	// verify: path of the program that checks the restored volume, on the node that carries out the request
	Check string `json:"check,omitempty"`
	// import: the version whose data the backup has, if the new volume continues it; absent: the volume has no history
	Version *dataset.VersionRef `json:"version,omitempty"`
	// import: UUID of the cluster that made the backup, if the new volume must be kept apart from it; absent: none
	KeptApart uuid.UUID `json:"kept_apart,omitzero"`
	// update: the volume takes over from the cluster that it was kept apart from
	TakeOver bool `json:"take_over,omitempty"`
	// import: folder to read; rekey: file with the old key, if the profile names another file
	Path string `json:"path,omitempty"`
	Live bool   `json:"live,omitempty"` // import: the folder may be in use
	// delete: also if the volume is protected; drop-alias: also if running containers use the alias
	Force bool `json:"force,omitempty"`
	// create: the engine of the node sent volume in this spelling
	Engine    bool `json:"engine,omitempty"`
	Scheduled bool `json:"scheduled,omitempty"` // snapshot, backup: made on the profile's schedule
	// move: the new home, by name or by a unique prefix of its UUID; empty: any other node
	Node string `json:"node,omitempty"`
	// move and delete with force: the unreachable home, which an operator confirms to be fenced
	Fenced string `json:"fenced,omitempty"`
	// move: only if the home is lost and the profile permits automatic failover
	Failover bool `json:"failover,omitempty"`
	// only decide: the answer or the error is that of the same request without it, nothing is changed, and the
	// operation in the answer is not recorded
	DryRun bool `json:"dry_run,omitempty"`
}

// Parsed returns a create, clone, import or verify with Ref set, and any other request unchanged. Control calls it for
// each request. The command line, and agents on other hosts, send the spec as it was written. If agent and control are
// one process, Ref is set already, and Parsed does not parse again. If Volume is empty, Parsed always parses it.
func (r Request) Parsed() Request {
	makes := r.Kind == dataset.OpCreate || r.Kind == dataset.OpClone || r.Kind == dataset.OpImport ||
		r.Kind == dataset.OpVerify
	if makes && (r.Volume == "" || r.Ref.Spelling != r.Volume) {
		r.Ref = dataset.ParseReference(r.Volume)
	}
	return r
}

// Plan is the decision of control on a request. Exactly one field is set.
type Plan struct {
	// the dataset, if it already is as requested
	Unchanged *dataset.Dataset `json:"unchanged,omitempty"`
	// the operation that the agent must carry out
	Operation *dataset.Operation `json:"operation,omitempty"`
}

// Report is an agent's report on an operation that it carried out.
type Report struct {
	Incarnation uuid.UUID         `json:"incarnation"` // incarnation of the agent that reports
	Operation   dataset.Operation `json:"operation"`   // the operation, with the actual size of its dataset or snapshot
	// whether an earlier report on the operation was not answered, so that it may still arrive. Control then records
	// the end of the operation in any case, and later reports change nothing.
	Retry bool `json:"retry,omitempty"`
	// status of the dataset that the operation made, for users to see at once; absent: the next heartbeat reports it
	Status *dataset.DatasetStatus `json:"status,omitempty"`
}

// Committed is the recorded result of an operation.
type Committed struct {
	// record of the dataset after the operation; absent: the dataset was destroyed
	Dataset *dataset.Dataset `json:"dataset,omitempty"`
	Index   uint64           `json:"index"` // index of the transaction that wrote the record
	// whether an identical request made the dataset first. The agent then removes the dataset that this operation made.
	Duplicate bool `json:"duplicate,omitempty"`
	// earlier scheduled backups of the dataset that retention does not keep: the agent removes them from the repository
	Expired []ExpiredBackup `json:"expired,omitempty"`
	// IDs of the earlier scheduled backups of the dataset in the repository that retention keeps. If the repository
	// lacks n of these backups, the agent keeps the n newest backups of Expired that are in it.
	Retained []string `json:"retained,omitempty"`
}

// ExpiredBackup is a scheduled backup that retention does not keep.
type ExpiredBackup struct {
	ID        string    `json:"id"`        // ID of the backup
	Operation uuid.UUID `json:"operation"` // UUID of the operation that made it
	// whether control names the backup for the last time: if the agent cannot remove it now, it stays in the repository
	Final bool `json:"final,omitempty"`
}

// Outcome is the answer to a request for a change.
type Outcome struct {
	Volume *Volume `json:"volume,omitempty"` // state of the volume when the request was accepted
	// operation that carries out the change; absent: no change was necessary
	Operation *dataset.Operation `json:"operation,omitempty"`
}
