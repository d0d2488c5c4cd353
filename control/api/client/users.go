package client

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
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
	return ask[api.Outcome](ctx, u.conn, call{method: http.MethodPost, path: "/v1/operations", body: req, again: true})
}

// Volume returns a volume by its name or a prefix of its UUID.
func (u Users) Volume(ctx context.Context, ref string) (api.Volume, error) {
	return one[api.Volume](ctx, u.conn, "/v1/volumes/%s", ref)
}

// Volumes lists the volumes by name.
func (u Users) Volumes(ctx context.Context, p api.Page) (api.List[api.Volume], error) {
	return list[api.Volume](ctx, u.conn, "/v1/volumes", p)
}

// Trash lists the datasets in the trash.
func (u Users) Trash(ctx context.Context, p api.Page) (api.List[api.Volume], error) {
	return list[api.Volume](ctx, u.conn, "/v1/trash", p)
}

// Snapshots lists the snapshots of one volume or, if ref is empty, of all.
func (u Users) Snapshots(ctx context.Context, ref string, p api.Page) (api.List[dataset.Snapshot], error) {
	return list[dataset.Snapshot](ctx, u.conn, "/v1/snapshots", p, "volume", ref)
}

// Snapshot returns a snapshot by a prefix of its UUID or, if ref names a volume, by its name in that volume.
func (u Users) Snapshot(ctx context.Context, ref, snapshot string) (dataset.Snapshot, error) {
	return one[dataset.Snapshot](ctx, u.conn, "/v1/snapshots/%s", snapshot, "volume", ref)
}

// Profiles lists the profiles.
func (u Users) Profiles(ctx context.Context) ([]dataset.Profile, error) {
	return items[dataset.Profile](ctx, u.conn, "/v1/profiles")
}

// Profile returns a profile by its name.
func (u Users) Profile(ctx context.Context, name string) (dataset.Profile, error) {
	return one[dataset.Profile](ctx, u.conn, "/v1/profiles/%s", name)
}

// Pools lists the pools.
func (u Users) Pools(ctx context.Context) ([]api.Pool, error) {
	return items[api.Pool](ctx, u.conn, "/v1/pools")
}

// NodeList lists the nodes for which the filter is true.
func (u Users) NodeList(ctx context.Context, filter string) ([]api.Node, error) {
	return items[api.Node](ctx, u.conn, "/v1/nodes", "filter", filter)
}

// Cordon sets whether new datasets may be placed on a node.
func (u Users) Cordon(ctx context.Context, id uuid.UUID, set api.Cordoned) (dataset.Node, error) {
	return ask[dataset.Node](ctx, u.conn, node(id, "/cordon", set))
}

// Fence records an operator's confirmation that an unreachable node no longer writes.
func (u Users) Fence(ctx context.Context, id uuid.UUID, f api.Fenced) (dataset.Node, error) {
	return ask[dataset.Node](ctx, u.conn, node(id, "/fence", f))
}

// Failover returns whether automatic failover is halted.
func (u Users) Failover(ctx context.Context) (api.FailoverState, error) {
	return ask[api.FailoverState](ctx, u.conn, call{method: http.MethodGet, path: "/v1/failover"})
}

// Operations lists the operations.
func (u Users) Operations(ctx context.Context, p api.Page) (api.List[dataset.Operation], error) {
	return list[dataset.Operation](ctx, u.conn, "/v1/operations", p)
}

// Operation returns an operation. It waits as described in api.Users, for at most ten minutes.
func (u Users) Operation(ctx context.Context, id string, wait time.Duration) (dataset.Operation, error) {
	path, err := refs("/v1/operations/%s", id)
	if err != nil {
		return dataset.Operation{}, err
	}
	return ask[dataset.Operation](ctx, u.conn, call{
		method:   http.MethodGet,
		path:     path,
		query:    query("wait", wire.FormatWait(wait)),
		patience: min(max(wait, 0), wire.MaxWait),
	})
}

// CancelOperation cancels an operation.
func (u Users) CancelOperation(ctx context.Context, id string) (dataset.Operation, error) {
	path, err := refs("/v1/operations/%s/cancel", id)
	if err != nil {
		return dataset.Operation{}, err
	}
	return ask[dataset.Operation](ctx, u.conn, call{method: http.MethodPost, path: path, again: true})
}

// Version returns the version of the server.
func (u Users) Version(ctx context.Context) (api.Version, error) {
	return ask[api.Version](ctx, u.conn, call{method: http.MethodGet, path: "/v1/version"})
}
