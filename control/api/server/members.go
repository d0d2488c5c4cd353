package server

import (
	"context"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/route"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

func (h handlers) members() {
	add(h, endpoint(route.MakeToken, "nodes", "Make a join token", "It lets one host join the cluster, once."),
		func(ctx context.Context, in *struct{ Body api.NewToken }) (*answer[api.JoinToken], error) {
			changeOf(ctx).Target = dataset.Clip(in.Body.Name)
			token, err := h.Members.MakeToken(ctx, in.Body)
			if token.ID != "" {
				changeOf(ctx).Detail = "token " + token.ID
			}
			return reply(token, err)
		})
	h.join()
	certify := agents(route.Certify, "Get another certificate")
	certify.MaxBodyBytes = maxJoinBytes
	add(h, certify, func(ctx context.Context, in *struct {
		NodeParam
		Body api.Certification
	}) (*answer[pki.Signed], error) {
		return reply(h.Members.Certify(ctx, in.Node, in.Body))
	})
	add(h, endpoint(route.GetTrust, "nodes", "Say whose certificates are good", ""),
		func(ctx context.Context, _ *struct{}) (*answer[api.Trust], error) {
			return reply(h.Members.Trust(ctx))
		})
	add(h, endpoint(route.RemoveNode, "nodes", "Remove a node",
		"Its certificate is worth nothing from then on. Refused while volumes have their home there, or it "+
			"keeps what nobody else has."),
		func(ctx context.Context, in *struct {
			Node  string `path:"node" doc:"the node: its name, or a unique prefix of its UUID"`
			Force bool   `query:"force" doc:"also while volumes have their home there: it stays on record until they have another; and while it keeps what nobody else has, which is forgotten"`
		}) (*answer[api.RemovedNode], error) {
			if in.Force {
				changeOf(ctx).Detail = "force"
			}
			return reply(h.Members.RemoveNode(ctx, in.Node, in.Force))
		})
	add(h, endpoint(route.RevokeOperator, "nodes", "Revoke an operator's certificates",
		"Those that were made so far, of all roles."),
		func(ctx context.Context, in *struct {
			Operator string `path:"operator" doc:"the operator's name"`
		}) (*struct{}, error) {
			return nil, h.Members.RevokeOperator(ctx, in.Operator)
		})
}

// join adds the only endpoint that needs no certificate. The size of its body, its duration and the number of
// concurrent requests are limited.
func (h handlers) join() {
	op := endpoint(route.Join, "agents", "Join the cluster with a token",
		"The one endpoint that needs no certificate.")
	op.MaxBodyBytes, op.BodyReadTimeout = maxJoinBytes, anonymousTime
	room := make(chan struct{}, maxJoins)
	add(h, op, func(ctx context.Context, in *struct{ Body api.Join }) (*answer[api.Joined], error) {
		changeOf(ctx).Target = dataset.Clip(in.Body.Name)
		select {
		case room <- struct{}{}:
			defer func() { <-room }()
		default:
			return nil, dataset.Errorf(dataset.ErrUnavailable, "too many hosts are joining at the same time (try "+
				"again in a moment)")
		}
		joined, err := h.Members.Join(ctx, in.Body)
		if err == nil {
			changeOf(ctx).Node = joined.Node.String()
		}
		return reply(joined, err)
	})
}
