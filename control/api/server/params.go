package server

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// VolumeParam names a volume in the path.
type VolumeParam struct {
	Volume string `path:"volume" doc:"name, alias, NAME@PROFILE, or unique prefix of the UUID" example:"db"`
}

// AliasParam names an alias of the volume in the path.
type AliasParam struct {
	Alias string `path:"alias" doc:"the alias: a former name of the volume" example:"db"`
}

// DryRunParam is whether a request only decides.
type DryRunParam struct {
	DryRun bool `query:"dry_run" doc:"only decide: answer as the request would without it, and change nothing"`
}

// note notes a dry run in the line of the audit log.
func (p DryRunParam) note(ctx context.Context) {
	if p.DryRun {
		changeOf(ctx).addDetail("", "dry run")
	}
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

func (p OperationParam) request(kind dataset.OpKind) api.Request {
	if p.Operation == uuid.Nil {
		p.Operation = uuid.New()
	}
	return api.Request{ID: p.Operation, Kind: kind, DryRun: p.DryRun}
}

// OperationRefParam names an operation in the path.
type OperationRefParam struct {
	Operation string `path:"operation" doc:"a unique prefix of the operation's UUID"`
}

// ForceParam overrides the protection of a volume.
type ForceParam struct {
	Force bool `query:"force" doc:"also if the volume is protected"`
}

// ForceDropParam overrides the check that no container uses an alias.
type ForceDropParam struct {
	Force bool `query:"force" doc:"also if running containers use it; they cannot start again"`
}

// ForceUnusedParam overrides the check that no volume uses a repository.
type ForceUnusedParam struct {
	Force bool `query:"force" doc:"also if volumes are backed up to it on schedule; these backups fail then"`
}

// FencedParam is an operator's confirmation that a node no longer writes.
type FencedParam struct {
	Fenced string `query:"fenced" maxLength:"512" doc:"with force: the unreachable home, confirmed to be fenced"`
}

// ForgetParam is whether only the record of a pool is removed.
type ForgetParam struct {
	Forget bool `query:"forget" doc:"remove only the record of the pool; its path stays unchanged"`
}

// RemovedNodeParam names the node to remove.
type RemovedNodeParam struct {
	Node  string `path:"node" doc:"the node: its name, or a unique prefix of its UUID"`
	Force bool   `query:"force" doc:"also if volumes have their home or their only data there"`
}

// SnapshotParam names a snapshot in the path.
type SnapshotParam struct {
	Snapshot string `path:"snapshot" doc:"unique prefix of the snapshot's UUID or, with a volume, its name"`
}

// OfVolumeParam names the volume whose snapshots are meant.
type OfVolumeParam struct {
	Volume string `query:"volume" doc:"the volume of the snapshots: its name, or a unique prefix of its dataset's UUID"`
}

// DatasetParam names a dataset in the path.
type DatasetParam struct {
	Dataset string `path:"dataset" doc:"the dataset: a unique prefix of its UUID"`
}

// PoolParam names a pool of the server's host in the path.
type PoolParam struct {
	Pool string `path:"pool" doc:"the pool's name"`
}

// NodeParam names a node in the path.
type NodeParam struct {
	Node uuid.UUID `path:"node" doc:"the node's UUID"`
}
