package server

import (
	"context"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

func (h handlers) nodes() {
	bind(h, endpoint.ListPools, func(ctx context.Context, in *api.Page) (api.List[api.Pool], error) {
		list, err := h.Service.Pools(ctx)
		return cutPage(*in, list, err, poolCursor)
	})
	bind(h, endpoint.ListNodes, func(ctx context.Context, in *endpoint.NodePage) (api.List[api.Node], error) {
		list, err := h.Service.NodeList(ctx, in.Filter)
		return cutPage(in.Page, list, err, func(_ int, n api.Node) string { return n.ID.String() })
	})
	bind(h, endpoint.CordonNode, func(ctx context.Context, in *endpoint.Report[api.Cordoned]) (dataset.Node, error) {
		return h.Service.Cordon(ctx, in.Node, in.Body)
	})
	bind(h, endpoint.LabelNode,
		func(ctx context.Context, in *endpoint.Report[dataset.LabelChange]) (dataset.Node, error) {
			return h.Service.LabelNode(ctx, in.Node, in.Body)
		})
	bind(h, endpoint.FenceNode, func(ctx context.Context, in *endpoint.Report[api.Fenced]) (dataset.Node, error) {
		return h.Service.Fence(ctx, in.Node, in.Body)
	})
	bind(h, endpoint.GetFailover, func(ctx context.Context, _ *endpoint.None) (api.FailoverState, error) {
		return h.Service.Failover(ctx)
	})
	bind(h, endpoint.GetHealth, func(ctx context.Context, _ *endpoint.None) (api.ClusterHealth, error) {
		return h.Service.ClusterHealth(ctx)
	})
}

// agents serves the endpoints that agents call, each for its own node.
func (h handlers) agents() {
	h.sessions()
	h.outcomes()
	h.moves()
	bindNone(h, endpoint.Heartbeat, func(ctx context.Context, in *endpoint.Report[api.Heartbeat]) error {
		return h.Service.Heartbeat(ctx, in.Node, in.Body)
	}, maxBody(maxHeartbeatBytes), before(limitConcurrency("heartbeats", maxHeartbeats, 0)))
	bind(h, endpoint.Facts, func(ctx context.Context, in *endpoint.Report[api.FactsReport]) (dataset.Facts, error) {
		return h.Service.Facts(ctx, in.Node, in.Body)
	})
	bind(h, endpoint.Generations,
		func(ctx context.Context, in *endpoint.Report[api.Generations]) (api.Generations, error) {
			return h.Service.Generations(ctx, in.Node, in.Body)
		})
	bind(h, endpoint.Rebuild, func(ctx context.Context, in *endpoint.RebuildReport) (api.List[api.Rebuilt], error) {
		noteDryRun(ctx, in.DryRun)
		return allItems(h.Service.Rebuild(ctx, in.Node, in.Body, in.DryRun))
	}, maxBody(maxRebuildBytes), before(limitConcurrency("rebuilds", maxRebuilds, maxRebuildsTotal)))
	hold := []setting{maxBody(maxRebuildBytes)}
	if h.CheckCollecting != nil {
		hold = append(hold, before(refuseUnless(h.CheckCollecting)))
	}
	hold = append(hold, before(limitConcurrency("holdings", maxHoldings, maxHoldingsTotal)))
	bindNone(h, endpoint.ReportHoldings, func(ctx context.Context, in *endpoint.Report[api.Holdings]) error {
		return h.Service.ReportHoldings(ctx, in.Node, in.Body)
	}, hold...)
}

func (h handlers) sessions() {
	bindNone(h, endpoint.RegisterNode, func(ctx context.Context, in *endpoint.Report[api.Registration]) error {
		if in.Body.Node.ID != in.Node {
			return dataset.Errorf(dataset.ErrInvalid, "registration of node %s at the endpoint of node %s",
				in.Body.Node.ID, in.Node)
		}
		return h.Service.Register(ctx, in.Body)
	})
	bind(h, endpoint.Renew, func(ctx context.Context, in *endpoint.Report[api.Renewal]) (api.SessionState, error) {
		return h.Service.Renew(ctx, in.Node, in.Body.Incarnation)
	})
	bind(h, endpoint.Sync, untilStop(func(ctx context.Context, in *endpoint.SyncParams) (s api.Sync, err error) {
		wait, err := wire.ParseWait(in.Wait)
		if err != nil {
			return s, err
		}
		return h.Service.Sync(ctx, in.Node, in.Rev, wait)
	}))
}

// outcomes serves the endpoints by which agents plan requests and report their operations.
func (h handlers) outcomes() {
	bind(h, endpoint.Plan, func(ctx context.Context, in *endpoint.Report[api.Request]) (api.Plan, error) {
		return h.Service.Plan(ctx, in.Node, in.Body)
	})
	bind(h, endpoint.Commit, func(ctx context.Context, in *endpoint.Report[api.Report]) (api.Committed, error) {
		changeOf(ctx).noteReport(in.Body.Operation)
		return h.Service.Commit(ctx, in.Node, in.Body)
	})
	bindNone(h, endpoint.Record, func(ctx context.Context, in *endpoint.Report[api.Report]) error {
		changeOf(ctx).noteReport(in.Body.Operation)
		return h.Service.Record(ctx, in.Node, in.Body)
	})
}

// moves serves the endpoints for moves of a dataset to another home.
func (h handlers) moves() {
	bindWork(h, endpoint.Recall,
		func(ctx context.Context, in *endpoint.Report[api.Report]) (dataset.Operation, string, error) {
			changeOf(ctx).noteReport(in.Body.Operation)
			op, err := h.Service.Recall(ctx, in.Node, in.Body)
			return op, pendingLocation(&op), err
		})
	bindNone(h, endpoint.Yield, func(ctx context.Context, in *endpoint.Report[api.Yield]) error {
		return h.Service.Yield(ctx, in.Node, in.Body)
	})
	bindNone(h, endpoint.ReportCopy, func(ctx context.Context, in *endpoint.Report[api.CopyReport]) error {
		return h.Service.ReportCopy(ctx, in.Node, in.Body)
	})
	bind(h, endpoint.SharedMount,
		func(ctx context.Context, in *endpoint.Report[api.SharedMountReport]) (api.IndexedDataset, error) {
			return h.Service.ReportSharedMount(ctx, in.Node, in.Body)
		})
}
