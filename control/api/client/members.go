package client

import (
	"context"
	"net/http"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/internal/pki"
)

// Members implements api.Members: the requests about who belongs to the cluster.
type Members struct{ conn *connection }

// MakeToken creates a join token.
func (m Members) MakeToken(ctx context.Context, t api.NewToken) (api.JoinToken, error) {
	return ask[api.JoinToken](ctx, m.conn, call{method: http.MethodPost, path: "/v1/tokens", body: t})
}

// Join makes this host a member of the cluster.
func (m Members) Join(ctx context.Context, j api.Join) (api.Joined, error) {
	return ask[api.Joined](ctx, m.conn, call{method: http.MethodPost, path: api.JoinPath, body: j, again: true})
}

// Certify returns a new certificate for the node.
func (m Members) Certify(ctx context.Context, id uuid.UUID, r api.Certification) (pki.Signed, error) {
	return ask[pki.Signed](ctx, m.conn, node(id, "/certificate", r))
}

// Trust returns the roots and the revoked certificates of the cluster.
func (m Members) Trust(ctx context.Context) (api.Trust, error) {
	return ask[api.Trust](ctx, m.conn, call{method: http.MethodGet, path: "/v1/trust"})
}

// RemoveNode removes a node from the cluster.
func (m Members) RemoveNode(ctx context.Context, ref string, force bool) (n api.Removed, err error) {
	path, err := refs("/v1/nodes/%s", ref)
	if err != nil {
		return n, err
	}
	k := call{method: http.MethodDelete, path: path, again: true}
	if force {
		k.query = query("force", "true")
	}
	return ask[api.Removed](ctx, m.conn, k)
}

// RevokeOperator revokes the certificates of an operator.
func (m Members) RevokeOperator(ctx context.Context, name string) error {
	path, err := refs("/v1/operators/%s", name)
	if err != nil {
		return err
	}
	return m.conn.tell(ctx, call{method: http.MethodDelete, path: path, again: true})
}

// Recover updates a store that was restored from an older backup.
func (m Members) Recover(ctx context.Context, r api.Recover) (api.Recovery, error) {
	k := call{method: http.MethodPost, path: "/v1/store/recover", body: r, patience: wire.MaxWait}
	return ask[api.Recovery](ctx, m.conn, k)
}
