package client

import (
	"context"
	"net/http"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Host implements api.Local and api.Backup: the requests that the agent of the server's host answers.
type Host struct{ conn *connection }

// Doctor returns what works on the server's host and what does not.
func (h Host) Doctor(ctx context.Context) ([]api.Finding, error) {
	return items[api.Finding](ctx, h.conn, "/v1/doctor")
}

// Collect destroys one dataset that the store does not know.
func (h Host) Collect(ctx context.Context, id uuid.UUID) error {
	return h.conn.tell(ctx, call{method: http.MethodDelete, path: "/v1/doctor/" + id.String()})
}

// CreatePool creates a pool on the server's host.
func (h Host) CreatePool(ctx context.Context, p api.NewPool) (dataset.Pool, error) {
	return ask[dataset.Pool](ctx, h.conn, call{method: http.MethodPost, path: "/v1/pools", body: p})
}

// AdoptPool takes over an existing pool on the server's host.
func (h Host) AdoptPool(ctx context.Context, path string) (dataset.Pool, []api.Rebuilt, error) {
	k := call{method: http.MethodPost, path: "/v1/pools/adopt", body: api.AdoptPool{Path: path}}
	a, err := ask[api.Adopted](ctx, h.conn, k)
	return a.Pool, a.Rebuilt, err
}

// AcceptPool lets a quarantined pool of the server's host serve in its present state.
func (h Host) AcceptPool(ctx context.Context, p api.AcceptPool) (dataset.Pool, error) {
	return ask[dataset.Pool](ctx, h.conn, call{method: http.MethodPost, path: "/v1/pools/accept", body: p})
}

// RemovePool removes an empty pool of the server's host. With forget it only deletes the record.
func (h Host) RemovePool(ctx context.Context, name string, forget bool) (p api.RemovedPool, err error) {
	path, err := refs("/v1/pools/%s", name)
	if err != nil {
		return p, err
	}
	k := call{method: http.MethodDelete, path: path}
	if forget {
		k.query = query("forget", "true")
	}
	return ask[api.RemovedPool](ctx, h.conn, k)
}

// RebuildStore restores the names of the datasets in the pools of the server's host.
func (h Host) RebuildStore(ctx context.Context, skipOffline bool) ([]api.Rebuilt, error) {
	k := call{method: http.MethodPost, path: "/v1/store/rebuild"}
	if skipOffline {
		k.query = query("skip_offline", "true")
	}
	l, err := ask[api.List[api.Rebuilt]](ctx, h.conn, k)
	return l.Items, err
}

// Diff compares two snapshots of a dataset, or one with the head.
func (h Host) Diff(ctx context.Context, older, newer string) (api.Diff, error) {
	return one[api.Diff](ctx, h.conn, "/v1/snapshots/%s/diff", older, "newer", newer)
}
