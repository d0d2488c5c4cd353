package client

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/internal/pki"
)

// Members implements api.Members: the requests about who belongs to the cluster.
type Members struct{ conn *connection }

// MakeToken creates a join token.
func (m Members) MakeToken(ctx context.Context, t api.NewToken) (api.JoinToken, error) {
	return ask(ctx, m.conn, endpoint.MakeToken, endpoint.With[api.NewToken]{Body: t})
}

// Join makes this host a member of the cluster.
func (m Members) Join(ctx context.Context, j api.Join) (api.Joined, error) {
	return ask(ctx, m.conn, endpoint.Join, endpoint.With[api.Join]{Body: j})
}

// Certify returns a new certificate for the node.
func (m Members) Certify(ctx context.Context, id uuid.UUID, r api.Certification) (pki.Signed, error) {
	return ask(ctx, m.conn, endpoint.Certify, about(id, r))
}

// Trust returns the roots and the revoked certificates of the cluster.
func (m Members) Trust(ctx context.Context) (api.Trust, error) {
	return ask(ctx, m.conn, endpoint.GetTrust, endpoint.None{})
}

// RemoveNode removes a node from the cluster. It fails with dataset.ErrUnavailable if the answer was lost, and the
// repetition of the request does not find the node.
func (m Members) RemoveNode(ctx context.Context, ref string, how api.NodeRemoval) (api.RemovedNode, error) {
	in, again := endpoint.RemovedNode{Node: ref, Force: how.Force}, false
	if how.DryRun {
		return ask(ctx, m.conn, endpoint.PreviewRemoveNode, in)
	}
	out, err := fetch[api.RemovedNode](ctx, m.conn, newCall(endpoint.RemoveNode.Endpoint, in).noteRepeat(&again))
	return out, errorOfRepeat(err, again)
}

// RevokeOperator revokes the certificates of an operator.
func (m Members) RevokeOperator(ctx context.Context, name string) error {
	return tell(ctx, m.conn, endpoint.RevokeOperator, endpoint.OperatorParam{Operator: name})
}

// Recover updates a store that was restored from an older backup.
func (m Members) Recover(ctx context.Context, r api.Recover) (api.Recovery, error) {
	k := newCall(endpoint.RecoverStore.Endpoint, endpoint.With[api.Recover]{Body: r})
	k.patience = wire.MaxWait
	return fetch[api.Recovery](ctx, m.conn, k)
}
