package endpoint

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// With is a request with a body and no parameters.
type With[T any] struct{ Body T }

// Change is a request for an operation.
type Change[T any] struct {
	OperationParam
	Body T
}

// VolumeChange is a request for an operation of a volume.
type VolumeChange[T any] struct {
	OperationParam
	VolumeParam
	Body T
}

// PoolChange is a request about a pool of the server's host.
type PoolChange[T any] struct {
	PoolParam
	Body T
}

// Report is a request about a node: of its agent, or of an operator.
type Report[T any] struct {
	NodeParam
	Body T
}

// VolumeParam names a volume in the path.
type VolumeParam struct {
	Volume string `path:"volume" doc:"name, alias, NAME@PROFILE, or unique prefix of the UUID" example:"db"`
}

// DryRunParam is whether a request only decides.
type DryRunParam struct {
	DryRun bool `query:"dry_run" doc:"only decide: answer as the request would without it, and change nothing"`
}

// OperationParam is the ID of the operation that a change becomes, and whether the change is only decided.
type OperationParam struct {
	DryRunParam
	OperationIDParam
}

// OperationIDParam is the ID of the operation that a change becomes.
type OperationIDParam struct {
	Operation uuid.UUID `query:"operation" doc:"ID of the new operation: a retry repeats it; absent: random"`
}

// Request returns a request for an operation of a kind. Without an ID, it gets one.
func (p OperationParam) Request(kind dataset.OpKind) api.Request {
	if p.Operation == uuid.Nil {
		p.Operation = uuid.New()
	}
	return api.Request{ID: p.Operation, Kind: kind, DryRun: p.DryRun}
}

// VolumePage selects volumes, and the form in which they are listed.
type VolumePage struct {
	api.Page
	Prefer string `header:"Prefer" doc:"return=minimal asks for the fields that a table shows (RFC 7240)"`
}

// DeletedVolume names a volume to delete.
type DeletedVolume struct {
	OperationParam
	VolumeParam
	Force  bool   `query:"force" doc:"also if the volume is protected"`
	Fenced string `query:"fenced" maxLength:"512" doc:"with force: the unreachable home, confirmed to be fenced"`
}

// DroppedAlias names an alias of a volume to drop.
type DroppedAlias struct {
	OperationParam
	VolumeParam
	Alias string `path:"alias" doc:"the alias: a former name of the volume" example:"db"`
	Force bool   `query:"force" doc:"also if running containers use it; they cannot start again"`
}

// ExportParams names a volume, or a snapshot of it.
type ExportParams struct {
	VolumeParam
	Snapshot string `query:"snapshot" doc:"name or unique prefix of the UUID; absent: the present content"`
}

// UploadParams has the properties of a volume whose content is the body of the request. There is no dry run: the agent
// reads the archive while it creates the volume.
type UploadParams struct {
	OperationIDParam
	VolumeParam
	Options []string `query:"o,explode" doc:"KEY=VALUE, as with docker volume create -o; can be repeated"`
}

// SnapshotParam names a snapshot in the path.
type SnapshotParam struct {
	Snapshot string `path:"snapshot" doc:"unique prefix of the snapshot's UUID or, with a volume, its name"`
}

// OfVolumeParam names the volume whose snapshots are meant.
type OfVolumeParam struct {
	Volume string `query:"volume" doc:"the volume of the snapshots: its name, or a unique prefix of its dataset's UUID"`
}

// SnapshotPage selects snapshots.
type SnapshotPage struct {
	OfVolumeParam
	api.Page
}

// SnapshotOfVolume names a snapshot, also by its name within a volume.
type SnapshotOfVolume struct {
	SnapshotParam
	OfVolumeParam
}

// DeletedSnapshot names a snapshot to delete.
type DeletedSnapshot struct {
	OperationParam
	SnapshotParam
	OfVolumeParam
}

// RestoredSnapshot names a snapshot to which a volume is restored.
type RestoredSnapshot struct {
	OperationParam
	SnapshotParam
	Body api.RestoreSnapshot
}

// DiffParams names two moments of a dataset.
type DiffParams struct {
	SnapshotParam
	Newer string `query:"newer" doc:"unique prefix of a later snapshot's UUID; absent: the present content"`
}

// DatasetParam names a dataset in the path.
type DatasetParam struct {
	Dataset string `path:"dataset" doc:"the dataset: a unique prefix of its UUID"`
}

// RestoredDataset names a dataset in the trash to restore.
type RestoredDataset struct {
	OperationParam
	DatasetParam
	Body *api.RestoreTrash
}

// PurgedDataset names a dataset in the trash to destroy.
type PurgedDataset struct {
	OperationParam
	DatasetParam
}

// ProfileParam names a profile in the path.
type ProfileParam struct {
	Profile string `path:"profile" doc:"the profile's name"`
}

// OperationRefParam names an operation in the path.
type OperationRefParam struct {
	Operation string `path:"operation" doc:"a unique prefix of the operation's UUID"`
}

// OperationWait names an operation, and how long to wait for it.
type OperationWait struct {
	OperationRefParam
	Wait string `query:"wait" doc:"how long to wait for the end, or for a change of the progress" example:"30s"`
}

// EventParams selects events.
type EventParams struct {
	After  uint64 `query:"after" doc:"only events after the event with this ID"`
	Follow bool   `query:"follow" doc:"also send new events, until the client disconnects"`
	Last   uint64 `header:"Last-Event-ID" doc:"like after, for browsers that reconnect"`
}

// RepositoryParam names a repository in the path.
type RepositoryParam struct {
	Repository string `path:"repository" doc:"the repository's name"`
}

// RemovedRepository names a repository whose record is removed.
type RemovedRepository struct {
	RepositoryParam
	Force bool `query:"force" doc:"also if volumes are backed up to it on schedule; these backups fail then"`
}

// BackupsOfVolume selects backups in a repository.
type BackupsOfVolume struct {
	RepositoryParam
	Volume string `query:"volume" doc:"only the backups of this volume, by the name that it had"`
}

// VersionsOfName selects versions in a repository.
type VersionsOfName struct {
	RepositoryParam
	Name string `query:"name" doc:"only the versions of this name"`
}

// BackupParam names a backup in a repository.
type BackupParam struct {
	RepositoryParam
	Backup string `path:"backup" doc:"the backup's full ID"`
}

// PoolParam names a pool of the server's host in the path.
type PoolParam struct {
	Pool string `path:"pool" doc:"the pool's name"`
}

// RemovedPool names a pool to remove.
type RemovedPool struct {
	PoolParam
	Forget bool `query:"forget" doc:"remove only the record of the pool; its path stays unchanged"`
}

// CollectedParam names a dataset or a snapshot that the store does not know.
type CollectedParam struct {
	Dataset uuid.UUID `path:"dataset" doc:"the full UUID, as doctor prints it"`
}

// RebuildParams says how the records of a host are rebuilt.
type RebuildParams struct {
	SkipOffline bool `query:"skip_offline" doc:"skip offline pools; the names of their volumes become free"`
	DryRunParam
}

// NodePage selects nodes.
type NodePage struct {
	api.Page
	Filter string `query:"filter" maxLength:"1024" doc:"list only nodes that match" example:"load_10 < 20"`
}

// NodeParam names a node in the path.
type NodeParam struct {
	Node uuid.UUID `path:"node" doc:"the node's UUID"`
}

// RemovedNode names a node to remove.
type RemovedNode struct {
	Node  string `path:"node" doc:"the node: its name, or a unique prefix of its UUID"`
	Force bool   `query:"force" doc:"also if volumes have their home or their only data there"`
}

// OperatorParam names an operator in the path.
type OperatorParam struct {
	Operator string `path:"operator" doc:"the operator's name"`
}

// SyncParams says from where on, and how long, an agent waits for changes.
type SyncParams struct {
	NodeParam
	Rev  uint64 `query:"rev" doc:"wait for changes after this revision; absent: everything, at once"`
	Wait string `query:"wait" doc:"how long to wait for a change" example:"30s"`
}

// RebuildReport has the datasets that were found in the pools of a node.
type RebuildReport struct {
	NodeParam
	DryRunParam
	Body []api.FoundDataset
}
