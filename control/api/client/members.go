package client

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/route"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/internal/pki"
)

// Members implements api.Members: the requests about who belongs to the cluster.
type Members struct{ conn *connection }

// MakeToken creates a join token.
func (m Members) MakeToken(ctx context.Context, t api.NewToken) (api.JoinToken, error) {
	return fetch[api.JoinToken](ctx, m.conn, newCall(route.MakeToken).with(t))
}

// Join makes this host a member of the cluster.
func (m Members) Join(ctx context.Context, j api.Join) (api.Joined, error) {
	return fetch[api.Joined](ctx, m.conn, newCall(route.Join).with(j).idempotent())
}

// Certify returns a new certificate for the node.
func (m Members) Certify(ctx context.Context, id uuid.UUID, r api.Certification) (pki.Signed, error) {
	return fetch[pki.Signed](ctx, m.conn, node(route.Certify, id, r))
}

// Trust returns the roots and the revoked certificates of the cluster.
func (m Members) Trust(ctx context.Context) (api.Trust, error) {
	return fetch[api.Trust](ctx, m.conn, newCall(route.GetTrust))
}

// RemoveNode removes a node from the cluster. It fails with dataset.ErrUnavailable if the answer was lost, and the
// repetition of the request does not find the node.
func (m Members) RemoveNode(ctx context.Context, ref string, how api.NodeRemoval) (api.RemovedNode, error) {
	k, again := newCall(route.RemoveNode, ref).idempotent(), false
	if how.DryRun {
		k = newCall(route.PreviewRemoveNode, ref).idempotent()
	} else {
		k = k.noteRepeat(&again)
	}
	k.query = query("force", flag(how.Force))
	out, err := fetch[api.RemovedNode](ctx, m.conn, k)
	return out, errorOfRepeat(err, again)
}

// RevokeOperator revokes the certificates of an operator.
func (m Members) RevokeOperator(ctx context.Context, name string) error {
	return m.conn.send(ctx, newCall(route.RevokeOperator, name).idempotent())
}

// Recover updates a store that was restored from an older backup.
func (m Members) Recover(ctx context.Context, r api.Recover) (api.Recovery, error) {
	k := newCall(route.RecoverStore).with(r)
	k.patience = wire.MaxWait
	return fetch[api.Recovery](ctx, m.conn, k)
}
