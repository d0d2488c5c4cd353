package client

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
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
	return ask(ctx, u.conn, endpoint.SubmitOperation, endpoint.With[api.Request]{Body: req})
}

// Volume returns a volume by its name or a prefix of its UUID.
func (u Users) Volume(ctx context.Context, ref string) (api.Volume, error) {
	return ask(ctx, u.conn, endpoint.GetVolume, endpoint.VolumeParam{Volume: ref})
}

// Volumes lists the volumes by name.
func (u Users) Volumes(ctx context.Context, p api.Page) (api.List[api.Volume], error) {
	return list(ctx, u.conn, endpoint.ListVolumes, endpoint.VolumePage{Page: p}, p)
}

// VolumeSummaries lists the volumes by name, with the fields that a table of volumes shows.
func (u Users) VolumeSummaries(ctx context.Context, p api.Page) (api.List[api.VolumeSummary], error) {
	in := endpoint.VolumePage{Page: p, Prefer: wire.Minimal}
	if p.Health {
		in.Prefer = wire.MinimalHealth
	}
	return page[api.VolumeSummary](ctx, u.conn, newCall(endpoint.ListVolumes.Endpoint, in), p.Size())
}

// Trash lists the datasets in the trash.
func (u Users) Trash(ctx context.Context, p api.Page) (api.List[api.Volume], error) {
	return list(ctx, u.conn, endpoint.ListTrash, p, p)
}

// Snapshots lists the snapshots of one volume or, if ref is empty, of all.
func (u Users) Snapshots(ctx context.Context, ref string, p api.Page) (api.List[dataset.Snapshot], error) {
	return list(ctx, u.conn, endpoint.ListSnapshots, endpoint.SnapshotPage{
		OfVolumeParam: endpoint.OfVolumeParam{Volume: ref}, Page: p,
	}, p)
}

// Snapshot returns a snapshot by a prefix of its UUID, by VOLUME@SNAPSHOT or, if ref names a volume, by its name.
func (u Users) Snapshot(ctx context.Context, ref, snapshot string) (dataset.Snapshot, error) {
	return ask(ctx, u.conn, endpoint.GetSnapshot, endpoint.SnapshotOfVolume{
		SnapshotParam: endpoint.SnapshotParam{Snapshot: snapshot}, OfVolumeParam: endpoint.OfVolumeParam{Volume: ref},
	})
}

// Profiles lists the profiles.
func (u Users) Profiles(ctx context.Context) ([]api.ListedProfile, error) {
	return items(ctx, u.conn, endpoint.ListProfiles, anyPage)
}

// Profile returns a profile by its name.
func (u Users) Profile(ctx context.Context, name string) (dataset.Profile, error) {
	return ask(ctx, u.conn, endpoint.GetProfile, endpoint.ProfileParam{Profile: name})
}

// Pools lists the pools.
func (u Users) Pools(ctx context.Context) ([]api.Pool, error) {
	return items(ctx, u.conn, endpoint.ListPools, anyPage)
}

// NodeList lists the nodes for which the filter is true.
func (u Users) NodeList(ctx context.Context, filter string) ([]api.Node, error) {
	return items(ctx, u.conn, endpoint.ListNodes, func(p api.Page) endpoint.NodePage {
		return endpoint.NodePage{Page: p, Filter: filter}
	})
}

// Cordon sets whether new datasets may be placed on a node.
func (u Users) Cordon(ctx context.Context, id uuid.UUID, set api.Cordoned) (dataset.Node, error) {
	return ask(ctx, u.conn, endpoint.CordonNode, about(id, set))
}

// LabelNode sets and removes labels of a node. It fails with dataset.ErrUnavailable if the answer was lost, and the
// repetition of the request does not find the labels to remove.
func (u Users) LabelNode(ctx context.Context, id uuid.UUID, change dataset.LabelChange) (dataset.Node, error) {
	var again bool
	k := newCall(endpoint.LabelNode.Endpoint, about(id, change)).noteRepeat(&again)
	n, err := fetch[dataset.Node](ctx, u.conn, k)
	return n, errorOfRepeat(err, again)
}

// Repositories lists the repositories for backups.
func (u Users) Repositories(ctx context.Context) ([]dataset.Repository, error) {
	return items(ctx, u.conn, endpoint.ListRepositories, anyPage)
}

// Repository returns a repository by its name.
func (u Users) Repository(ctx context.Context, name string) (dataset.Repository, error) {
	return ask(ctx, u.conn, endpoint.GetRepository, endpoint.RepositoryParam{Repository: name})
}

// AddRepository records a repository.
func (u Users) AddRepository(ctx context.Context, r api.NewRepository) (dataset.Repository, error) {
	return ask(ctx, u.conn, endpoint.AddRepository, endpoint.With[api.NewRepository]{Body: r})
}

// RemoveRepository removes the record of a repository. With force, it does so also if volumes are backed up to it.
func (u Users) RemoveRepository(ctx context.Context, name string, force bool) error {
	return tell(ctx, u.conn, endpoint.RemoveRepository, endpoint.RemovedRepository{
		RepositoryParam: endpoint.RepositoryParam{Repository: name}, Force: force,
	})
}

// Fence records an operator's confirmation that an unreachable node no longer writes.
func (u Users) Fence(ctx context.Context, id uuid.UUID, f api.Fenced) (dataset.Node, error) {
	return ask(ctx, u.conn, endpoint.FenceNode, about(id, f))
}

// Failover returns whether automatic failover is halted.
func (u Users) Failover(ctx context.Context) (api.FailoverState, error) {
	return ask(ctx, u.conn, endpoint.GetFailover, endpoint.None{})
}

// ClusterHealth returns the state of the store, the control replicas and the nodes.
func (u Users) ClusterHealth(ctx context.Context) (api.ClusterHealth, error) {
	return ask(ctx, u.conn, endpoint.GetHealth, endpoint.None{})
}

// Operations lists the operations.
func (u Users) Operations(ctx context.Context, p api.Page) (api.List[dataset.Operation], error) {
	return list(ctx, u.conn, endpoint.ListOperations, p, p)
}

// Operation returns an operation. It waits as described in api.Users, for at most ten minutes.
func (u Users) Operation(ctx context.Context, id string, wait time.Duration) (dataset.Operation, error) {
	k := newCall(endpoint.GetOperation.Endpoint, endpoint.OperationWait{
		OperationRefParam: endpoint.OperationRefParam{Operation: id}, Wait: wire.FormatWait(wait),
	})
	k.patience = min(max(wait, 0), wire.MaxWait)
	return fetch[dataset.Operation](ctx, u.conn, k)
}

// CancelOperation cancels an operation.
func (u Users) CancelOperation(ctx context.Context, id string) (dataset.Operation, error) {
	return ask(ctx, u.conn, endpoint.CancelOperation, endpoint.OperationRefParam{Operation: id})
}

// Version returns the version of the server.
func (u Users) Version(ctx context.Context) (api.Version, error) {
	return ask(ctx, u.conn, endpoint.GetVersion, endpoint.None{})
}
