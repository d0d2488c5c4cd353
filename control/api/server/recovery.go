package server

import (
	"context"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/route"
)

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
	hold := agents(route.Hold, "Report the datasets and copies of the node, for a recovery of the store")
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
