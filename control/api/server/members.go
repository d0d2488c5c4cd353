package server

import (
	"context"

	"github.com/danielgtaylor/huma/v2"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// members serves the endpoints of a control replica of a cluster.
func (h handlers) members() {
	h.join()
	bind(h, endpoint.MakeToken, func(ctx context.Context, in *endpoint.With[api.NewToken]) (api.JoinToken, error) {
		changeOf(ctx).Target = dataset.Clip(in.Body.Name)
		token, err := h.Members.MakeToken(ctx, in.Body)
		if token.ID != "" {
			changeOf(ctx).Detail = "token " + token.ID
		}
		return token, err
	})
	bind(h, endpoint.Certify, func(ctx context.Context, in *endpoint.Report[api.Certification]) (pki.Signed, error) {
		return h.Members.Certify(ctx, in.Node, in.Body)
	}, maxBody(maxJoinBytes))
	bind(h, endpoint.GetTrust, func(ctx context.Context, _ *endpoint.None) (api.Trust, error) {
		return h.Members.Trust(ctx)
	})
	bind(h, endpoint.RemoveNode, func(ctx context.Context, in *endpoint.RemovedNode) (api.RemovedNode, error) {
		if in.Force {
			changeOf(ctx).Detail = "force"
		}
		return h.Members.RemoveNode(ctx, in.Node, api.NodeRemoval{Force: in.Force})
	})
	bind(h, endpoint.PreviewRemoveNode, func(ctx context.Context, in *endpoint.RemovedNode) (api.RemovedNode, error) {
		return h.Members.RemoveNode(ctx, in.Node, api.NodeRemoval{Force: in.Force, DryRun: true})
	})
	bindNone(h, endpoint.RevokeOperator, func(ctx context.Context, in *endpoint.OperatorParam) error {
		return h.Members.RevokeOperator(ctx, in.Operator)
	})
	bind(h, endpoint.RecoverStore, func(ctx context.Context, in *endpoint.With[api.Recover]) (api.Recovery, error) {
		c := changeOf(ctx)
		c.addDetail("confirmed ", in.Body.Digest)
		for _, node := range in.Body.FencedNodes {
			c.addDetail("fenced ", node)
		}
		noteDryRun(ctx, in.Body.DryRun)
		return h.Members.Recover(ctx, in.Body)
	})
}

// join serves the only endpoint that needs no certificate. The size of its body, its duration and the number of
// concurrent requests are limited.
func (h handlers) join() {
	room := make(chan struct{}, maxJoins)
	bind(h, endpoint.Join, func(ctx context.Context, in *endpoint.With[api.Join]) (joined api.Joined, err error) {
		changeOf(ctx).Target = dataset.Clip(in.Body.Name)
		select {
		case room <- struct{}{}:
			defer func() { <-room }()
		default:
			return joined, dataset.Errorf(dataset.ErrUnavailable, "too many hosts are joining at the same time (try "+
				"again in a moment)")
		}
		joined, err = h.Members.Join(ctx, in.Body)
		if err == nil {
			changeOf(ctx).Node = joined.Node.String()
		}
		return joined, err
	}, maxBody(maxJoinBytes), func(op *huma.Operation) { op.BodyReadTimeout = anonymousTime })
}
