package client

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/route"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

// Users implements api.Users: the requests of people and programs.
type Users struct{ conn *connection }

// Submit asks for a change. If the request has no ID, it gets one.
func (u Users) Submit(ctx context.Context, req api.Request) (api.Outcome, error) {
	if req.ID == uuid.Nil {
		req.ID = uuid.New()
	}
	return fetch[api.Outcome](ctx, u.conn, newCall(route.SubmitOperation).with(req).idempotent())
}

// Volume returns a volume by its name or a prefix of its UUID.
func (u Users) Volume(ctx context.Context, ref string) (api.Volume, error) {
	return one[api.Volume](ctx, u.conn, route.GetVolume, ref)
}

// Volumes lists the volumes by name.
func (u Users) Volumes(ctx context.Context, p api.Page) (api.List[api.Volume], error) {
	return list[api.Volume](ctx, u.conn, route.ListVolumes, p)
}

// VolumeSummaries lists the volumes by name, with the fields that a table of volumes shows.
func (u Users) VolumeSummaries(ctx context.Context, p api.Page) (api.List[api.VolumeSummary], error) {
	k := newCall(route.ListVolumes)
	k.header = http.Header{"Prefer": {wire.Minimal}}
	if p.Health {
		k.header.Set("Prefer", wire.MinimalHealth)
	}
	return listWith[api.VolumeSummary](ctx, u.conn, k, p)
}

// Trash lists the datasets in the trash.
func (u Users) Trash(ctx context.Context, p api.Page) (api.List[api.Volume], error) {
	return list[api.Volume](ctx, u.conn, route.ListTrash, p)
}

// Snapshots lists the snapshots of one volume or, if ref is empty, of all.
func (u Users) Snapshots(ctx context.Context, ref string, p api.Page) (api.List[dataset.Snapshot], error) {
	return list[dataset.Snapshot](ctx, u.conn, route.ListSnapshots, p, "volume", ref)
}

// Snapshot returns a snapshot by a prefix of its UUID, by VOLUME@SNAPSHOT or, if ref names a volume, by its name.
func (u Users) Snapshot(ctx context.Context, ref, snapshot string) (dataset.Snapshot, error) {
	return one[dataset.Snapshot](ctx, u.conn, route.GetSnapshot, snapshot, "volume", ref)
}

// Profiles lists the profiles.
func (u Users) Profiles(ctx context.Context) ([]api.ListedProfile, error) {
	return items[api.ListedProfile](ctx, u.conn, route.ListProfiles)
}

// Profile returns a profile by its name.
func (u Users) Profile(ctx context.Context, name string) (dataset.Profile, error) {
	return one[dataset.Profile](ctx, u.conn, route.GetProfile, name)
}

// Pools lists the pools.
func (u Users) Pools(ctx context.Context) ([]api.Pool, error) {
	return items[api.Pool](ctx, u.conn, route.ListPools)
}

// NodeList lists the nodes for which the filter is true.
func (u Users) NodeList(ctx context.Context, filter string) ([]api.Node, error) {
	return items[api.Node](ctx, u.conn, route.ListNodes, "filter", filter)
}

// Cordon sets whether new datasets may be placed on a node.
func (u Users) Cordon(ctx context.Context, id uuid.UUID, set api.Cordoned) (dataset.Node, error) {
	return fetch[dataset.Node](ctx, u.conn, node(route.CordonNode, id, set))
}

// LabelNode sets and removes labels of a node. It fails with dataset.ErrUnavailable if the answer was lost, and the
// repetition of the request does not find the labels to remove.
func (u Users) LabelNode(ctx context.Context, id uuid.UUID, change dataset.LabelChange) (dataset.Node, error) {
	var again bool
	n, err := fetch[dataset.Node](ctx, u.conn, node(route.LabelNode, id, change).noteRepeat(&again))
	return n, errorOfRepeat(err, again)
}

// Repositories lists the repositories for backups.
func (u Users) Repositories(ctx context.Context) ([]dataset.Repository, error) {
	return items[dataset.Repository](ctx, u.conn, route.ListRepositories)
}

// Repository returns a repository by its name.
func (u Users) Repository(ctx context.Context, name string) (dataset.Repository, error) {
	return one[dataset.Repository](ctx, u.conn, route.GetRepository, name)
}

// AddRepository records a repository.
func (u Users) AddRepository(ctx context.Context, r api.NewRepository) (dataset.Repository, error) {
	return fetch[dataset.Repository](ctx, u.conn, newCall(route.AddRepository).with(r).idempotent())
}

// RemoveRepository removes the record of a repository. With force, it does so also if volumes are backed up to it.
func (u Users) RemoveRepository(ctx context.Context, name string, force bool) error {
	k := newCall(route.RemoveRepository, name)
	k.query = query("force", flag(force))
	return u.conn.send(ctx, k)
}

// Fence records an operator's confirmation that an unreachable node no longer writes.
func (u Users) Fence(ctx context.Context, id uuid.UUID, f api.Fenced) (dataset.Node, error) {
	return fetch[dataset.Node](ctx, u.conn, node(route.FenceNode, id, f))
}

// Failover returns whether automatic failover is halted.
func (u Users) Failover(ctx context.Context) (api.FailoverState, error) {
	return fetch[api.FailoverState](ctx, u.conn, newCall(route.GetFailover))
}

// ClusterHealth returns the state of the store, the control replicas and the nodes.
func (u Users) ClusterHealth(ctx context.Context) (api.ClusterHealth, error) {
	return fetch[api.ClusterHealth](ctx, u.conn, newCall(route.GetHealth))
}

// Operations lists the operations.
func (u Users) Operations(ctx context.Context, p api.Page) (api.List[dataset.Operation], error) {
	return list[dataset.Operation](ctx, u.conn, route.ListOperations, p)
}

// Operation returns an operation. It waits as described in api.Users, for at most ten minutes.
func (u Users) Operation(ctx context.Context, id string, wait time.Duration) (dataset.Operation, error) {
	k := newCall(route.GetOperation, id)
	k.query, k.patience = query("wait", wire.FormatWait(wait)), min(max(wait, 0), wire.MaxWait)
	return fetch[dataset.Operation](ctx, u.conn, k)
}

// CancelOperation cancels an operation.
func (u Users) CancelOperation(ctx context.Context, id string) (dataset.Operation, error) {
	return fetch[dataset.Operation](ctx, u.conn, newCall(route.CancelOperation, id).idempotent())
}

// Version returns the version of the server.
func (u Users) Version(ctx context.Context) (api.Version, error) {
	return fetch[api.Version](ctx, u.conn, newCall(route.GetVersion))
}
