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
// the other fields are used. A field that users set also belongs in the body type in volumes.go, here and in server.
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
	// IDs of the new backup, and of the earlier scheduled backups of the dataset in the repository that retention
	// keeps. If the repository lacks n of these, the agent keeps the n newest backups of Expired that are in it.
	Retained []string `json:"retained,omitempty"`
	// IDs of all backups that are being read, with Expired: the agent removes none of them
	Reading []string `json:"reading,omitempty"`
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

// AskControl is the part of an error that says how an operator can make a request that a node is not allowed to make.
const AskControl = "ask with an operator's certificate, or as root of a control host with " + OnControl

// AskAsAdmin is AskControl for a request that requires the role admin.
const AskAsAdmin = "ask with an admin's certificate, or as root of a control host with " + OnControl

// OnControl is the setting with which the command line asks the control replica of its host.
const OnControl = "DROVER_API=unix:///run/drover/control.sock"

// EventType says what happened.
type EventType string

// The types of events. To add a type, add a constant here, and publish the event where the change is made: with
// record.Tx.Event, or in the Events of a record.Notice. Then run go generate ./control/api/openapi.
const (
	EventVolumeCreate      EventType = "volume.create"       // a volume was created
	EventVolumeClone       EventType = "volume.clone"        // a volume was created as a clone
	EventVolumeImport      EventType = "volume.import"       // a volume was created from a folder or archive
	EventVolumeUpdate      EventType = "volume.update"       // the profile, labels, protection or aliases changed
	EventVolumeRename      EventType = "volume.rename"       // a volume got another name
	EventVolumeResize      EventType = "volume.resize"       // the size of a volume changed
	EventVolumeRekey       EventType = "volume.rekey"        // the data key of a volume was wrapped again
	EventVolumePush        EventType = "volume.push"         // a volume was pushed to a repository
	EventVolumeBackup      EventType = "volume.backup"       // a volume was backed up to a repository
	EventVolumeVerify      EventType = "volume.verify"       // a backup of a volume was restored and compared
	EventVolumeVerifyFail  EventType = "volume.verify_fail"  // a backup of a volume could not be restored
	EventVolumeMove        EventType = "volume.move"         // a volume moved to another node
	EventVolumeFailover    EventType = "volume.failover"     // a volume continued without its home
	EventVolumeLease       EventType = "volume.lease"        // a move failed, and the home has its lease again
	EventVolumeSharedMount EventType = "volume.shared_mount" // another node than the home began or ended a use
	EventVolumeDelete      EventType = "volume.delete"       // a volume was deleted
	EventVolumeUndelete    EventType = "volume.undelete"     // a volume was restored from the trash
	EventVolumePurge       EventType = "volume.purge"        // a dataset in the trash is destroyed on request
	EventVolumeShow        EventType = "volume.show"         // a superseded copy is mounted for inspection
	EventVolumeHide        EventType = "volume.hide"         // a superseded copy is no longer mounted
	EventVolumeDiscard     EventType = "volume.discard"      // a superseded copy was discarded
	EventVolumeForget      EventType = "volume.forget"       // data that only a removed node had is no longer recorded
	EventVolumeRebuild     EventType = "volume.rebuild"      // the record of a dataset was restored from a pool
	EventVolumeNearly      EventType = "volume.nearly_full"  // a volume is nearly full
	EventVolumeFull        EventType = "volume.full"         // a volume is full
	EventVolumeNotFull     EventType = "volume.not_full"     // a volume has space again
	EventSnapshotCreate    EventType = "snapshot.create"     // a snapshot was taken
	EventSnapshotDelete    EventType = "snapshot.delete"     // a snapshot was deleted
	EventSnapshotRestore   EventType = "snapshot.restore"    // a volume was restored to a snapshot
	EventTrashExpire       EventType = "trash.expire"        // a dataset in the trash expired and is destroyed
	EventTrashHold         EventType = "trash.hold"          // datasets stay in the trash longer: the clock jumped
	EventNodeLive          EventType = "node.live"           // the agent of a node registered
	EventNodeAway          EventType = "node.away"           // a node became unreachable
	EventNodeLeave         EventType = "node.leave"          // the agent of a node was stopped
	EventNodeFence         EventType = "node.fence"          // an operator confirmed that a node is fenced
	EventNodeCordon        EventType = "node.cordon"         // a node was cordoned
	EventNodeUncordon      EventType = "node.uncordon"       // the cordon of a node ended
	EventNodeDrain         EventType = "node.drain"          // a node is being drained
	EventNodeLabel         EventType = "node.label"          // the labels of a node changed
	EventNodeRemove        EventType = "node.remove"         // a node was removed
	EventPoolFull          EventType = "pool.full"           // a pool is nearly full
	EventPoolOffline       EventType = "pool.offline"        // a pool went offline
	EventPoolOnline        EventType = "pool.online"         // a pool is online again
	EventPoolHeld          EventType = "pool.held"           // a pool was quarantined
	EventPoolRemove        EventType = "pool.remove"         // a pool was removed
	EventOperationFail     EventType = "operation.fail"      // an operation failed
	EventRepositoryAdd     EventType = "repository.add"      // a repository for backups was added
	EventRepositoryRemove  EventType = "repository.remove"   // a repository was removed; its backups stay
	EventFailoverHalt      EventType = "failover.halt"       // automatic failover was suspended
	EventFailoverResume    EventType = "failover.resume"     // automatic failover is possible again
	EventStoreRecover      EventType = "store.recover"       // a record was corrected, or the store was recovered
)

// Event is one event of the cluster, such as the creation of a volume.
type Event struct {
	// number of the event, which grows; unique until the server restarts
	ID      uint64    `json:"id"`
	Time    time.Time `json:"time"`             // when the event happened
	Type    EventType `json:"type"`             // what happened
	Volume  string    `json:"volume,omitempty"` // name of the volume concerned; empty: none
	Dataset uuid.UUID `json:"dataset,omitzero"` // UUID of the dataset concerned; absent: none
	Node    string    `json:"node,omitempty"`   // name of the node concerned; empty: none
	Detail  string    `json:"detail,omitempty"` // explanation for a person; empty: none
	// who requested the change, as in the record of an operation; absent: Drover itself, or not known
	By     string            `json:"by,omitempty"`
	Labels map[string]string `json:"labels,omitempty"` // labels of the volume concerned
}

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
