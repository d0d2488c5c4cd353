package server

import (
	"context"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/route"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

func (h handlers) members() {
	add(h, endpoint(route.MakeToken, "nodes", "Make a join token", "One host can join the cluster with it, once."),
		func(ctx context.Context, in *struct{ Body api.NewToken }) (*answer[api.JoinToken], error) {
			changeOf(ctx).Target = dataset.Clip(in.Body.Name)
			token, err := h.Members.MakeToken(ctx, in.Body)
			if token.ID != "" {
				changeOf(ctx).Detail = "token " + token.ID
			}
			return reply(token, err)
		})
	h.join()
	certify := agents(route.Certify, "Get a new certificate")
	certify.MaxBodyBytes = maxJoinBytes
	add(h, certify, func(ctx context.Context, in *struct {
		NodeParam
		Body api.Certification
	}) (*answer[pki.Signed], error) {
		return reply(h.Members.Certify(ctx, in.Node, in.Body))
	})
	add(h, endpoint(route.GetTrust, "nodes", "Get the trusted roots and the revoked certificates", ""),
		func(ctx context.Context, _ *struct{}) (*answer[api.Trust], error) {
			return reply(h.Members.Trust(ctx))
		})
	add(h, endpoint(route.RemoveNode, "nodes", "Remove a node",
		"Its certificate is revoked. Refused while the node is the home of volumes, or has data that no "+
			"other node has."),
		func(ctx context.Context, in *struct {
			RemovedNodeParam
		}) (*answer[api.RemovedNode], error) {
			if in.Force {
				changeOf(ctx).Detail = "force"
			}
			return reply(h.Members.RemoveNode(ctx, in.Node, api.NodeRemoval{Force: in.Force}))
		})
	add(h, endpoint(route.PreviewRemoveNode, "nodes", "Preview the removal of a node", ""),
		func(ctx context.Context, in *struct {
			RemovedNodeParam
		}) (*answer[api.RemovedNode], error) {
			return reply(h.Members.RemoveNode(ctx, in.Node, api.NodeRemoval{Force: in.Force, DryRun: true}))
		})
	add(h, endpoint(route.RevokeOperator, "nodes", "Revoke an operator's certificates",
		"All certificates that were issued to the operator so far, with any role."),
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
		"The only endpoint that needs no certificate.")
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

// recovery adds the endpoints of the recovery of a store.
func (h handlers) recovery() {
	add(h, endpoint(route.RecoverStore, "host", "Recover a store that was restored from an older backup",
		"The records are corrected from the reports of all agents. Without the digest of the differences, they are "+
			"only listed."),
		func(ctx context.Context, in *struct{ Body api.Recover }) (*answer[api.Recovery], error) {
			c := changeOf(ctx)
			c.addDetail("confirmed ", in.Body.Digest)
			for _, node := range in.Body.FencedNodes {
				c.addDetail("fenced ", node)
			}
			DryRunParam{in.Body.DryRun}.note(ctx)
			return reply(h.Members.Recover(ctx, in.Body))
		})
	hold := agents(route.ReportHoldings, "Report the datasets and copies of the node, for a recovery of the store")
	hold.MaxBodyBytes = maxRebuildBytes
	if h.CheckCollecting != nil {
		hold.Middlewares = append(hold.Middlewares, refuseUnless(h.CheckCollecting))
	}
	hold.Middlewares = append(hold.Middlewares, limitConcurrency("holdings", maxHoldings, maxHoldingsTotal))
	add(h, hold, func(ctx context.Context, in *struct {
		NodeParam
		Body api.Holdings
	}) (*struct{}, error) {
		return nil, h.Service.ReportHoldings(ctx, in.Node, in.Body)
	})
}
