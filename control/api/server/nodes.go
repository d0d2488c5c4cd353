package server

import (
	"context"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/route"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

func (h handlers) nodes() {
	add(h, endpoint(route.ListNodes, "nodes", "List the nodes", ""),
		func(ctx context.Context, in *struct {
			api.Page
			Filter string `query:"filter" maxLength:"1024" doc:"list only nodes that match" example:"load_10 < 20"`
		}) (*answer[api.List[api.Node]], error) {
			list, err := h.Service.NodeList(ctx, in.Filter)
			return cutPage(in.Page, list, err, func(_ int, n api.Node) string { return n.ID.String() })
		})
	add(h, endpoint(route.CordonNode, "nodes", "Cordon or uncordon a node", ""),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.Cordoned
		}) (*answer[dataset.Node], error) {
			return reply(h.Service.Cordon(ctx, in.Node, in.Body))
		})
	add(h, endpoint(route.LabelNode, "nodes", "Set and remove labels of a node", ""),
		func(ctx context.Context, in *struct {
			NodeParam
			Body dataset.LabelChange
		}) (*answer[dataset.Node], error) {
			return reply(h.Service.LabelNode(ctx, in.Node, in.Body))
		})
	add(h, endpoint(route.FenceNode, "nodes", "Confirm that a node is fenced", ""),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.Fenced
		}) (*answer[dataset.Node], error) {
			return reply(h.Service.Fence(ctx, in.Node, in.Body))
		})
	add(h, endpoint(route.GetFailover, "nodes", "Get the state of automatic failover", ""),
		func(ctx context.Context, _ *struct{}) (*answer[api.FailoverState], error) {
			return reply(h.Service.Failover(ctx))
		})
	add(h, endpoint(route.GetHealth, "nodes", "Get the state of the store, the control replicas and the nodes", ""),
		func(ctx context.Context, _ *struct{}) (*answer[api.ClusterHealth], error) {
			return reply(h.Service.ClusterHealth(ctx))
		})
	add(h, agents(route.RegisterNode, "Register a node and its pools"),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.Registration
		}) (*struct{}, error) {
			if in.Body.Node.ID != in.Node {
				return nil, dataset.Errorf(dataset.ErrInvalid, "registration of node %s at the endpoint of node %s",
					in.Body.Node.ID, in.Node)
			}
			return nil, h.Service.Register(ctx, in.Body)
		})
	add(h, agents(route.Renew, "Renew the session of the node's agent"),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.Renewal
		}) (*answer[api.SessionState], error) {
			return reply(h.Service.Renew(ctx, in.Node, in.Body.Incarnation))
		})
	h.outcomes()
	h.feeds()
	h.moves()
}

// outcomes adds the endpoints by which agents plan requests and report their operations.
func (h handlers) outcomes() {
	add(h, agents(route.Plan, "Decide on a request that the node will carry out"),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.Request
		}) (*answer[api.Plan], error) {
			return reply(h.Service.Plan(ctx, in.Node, in.Body))
		})
	add(h, agents(route.Commit, "Record the outcome of an operation"),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.Report
		}) (*answer[api.Committed], error) {
			changeOf(ctx).noteReport(in.Body.Operation)
			return reply(h.Service.Commit(ctx, in.Node, in.Body))
		})
	add(h, agents(route.Record, "Record that an operation is running"),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.Report
		}) (*struct{}, error) {
			changeOf(ctx).noteReport(in.Body.Operation)
			return nil, h.Service.Record(ctx, in.Node, in.Body)
		})
}

// moves adds the endpoints that move a home from one node to another.
func (h handlers) moves() {
	add(h, agents(route.Recall, "Recall the lease of a volume from its home, for a move"),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.Report
		}) (*work[dataset.Operation], error) {
			changeOf(ctx).noteReport(in.Body.Operation)
			op, err := h.Service.Recall(ctx, in.Node, in.Body)
			return accepted(op, pendingLocation(&op), err)
		})
	add(h, agents(route.Yield, "Answer a recall"),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.Yield
		}) (*struct{}, error) {
			return nil, h.Service.Yield(ctx, in.Node, in.Body)
		})
	add(h, agents(route.ReportCopy, "Report the state of the node's copy of a dataset"),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.CopyReport
		}) (*struct{}, error) {
			return nil, h.Service.ReportCopy(ctx, in.Node, in.Body)
		})
	add(h, agents(route.SharedMount, "Begin or end a shared mount of a dataset"),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.SharedMountReport
		}) (*answer[api.IndexedDataset], error) {
			return reply(h.Service.ReportSharedMount(ctx, in.Node, in.Body))
		})
}

// feeds adds the endpoints that keep an agent and control informed about each other.
func (h handlers) feeds() {
	sync := agents(route.Sync, "Wait for changes that concern the node")
	add(h, sync, func(ctx context.Context, in *struct {
		NodeParam
		Rev  uint64 `query:"rev" doc:"wait for changes after this revision; absent: everything, at once"`
		Wait string `query:"wait" doc:"how long to wait for a change" example:"30s"`
	}) (*answer[api.Sync], error) {
		wait, err := wire.ParseWait(in.Wait)
		if err != nil {
			return nil, err
		}
		ctx, end := waiting(ctx)
		s, err := h.Service.Sync(ctx, in.Node, in.Rev, wait)
		return reply(s, end(err))
	})
	heartbeat := agents(route.Heartbeat, "Report the state of the node")
	heartbeat.MaxBodyBytes = maxHeartbeatBytes
	heartbeat.Middlewares = append(heartbeat.Middlewares, limitConcurrency("heartbeats", maxHeartbeats, 0))
	add(h, heartbeat, func(ctx context.Context, in *struct {
		NodeParam
		Body api.Heartbeat
	}) (*struct{}, error) {
		return nil, h.Service.Heartbeat(ctx, in.Node, in.Body)
	})
	add(h, agents(route.Facts, "Report the facts of the node's host"),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.FactsReport
		}) (*answer[dataset.Facts], error) {
			return reply(h.Service.Facts(ctx, in.Node, in.Body))
		})
	add(h, agents(route.Generations, "Report the generations of the node's pools"),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.Generations
		}) (*answer[api.Generations], error) {
			return reply(h.Service.Generations(ctx, in.Node, in.Body))
		})
	rebuild := agents(route.Rebuild, "Restore the records of datasets that were found in the node's pools")
	rebuild.MaxBodyBytes = maxRebuildBytes
	rebuild.Middlewares = append(rebuild.Middlewares, limitConcurrency("rebuilds", maxRebuilds, maxRebuildsTotal))
	add(h, rebuild, func(ctx context.Context, in *struct {
		NodeParam
		DryRunParam
		Body []api.FoundDataset
	}) (*answer[api.List[api.Rebuilt]], error) {
		in.DryRunParam.note(ctx)
		return allItems(h.Service.Rebuild(ctx, in.Node, in.Body, in.DryRun))
	})
}
