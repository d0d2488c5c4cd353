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
			Filter string `query:"filter" maxLength:"1024" doc:"an expression over facts; those that it is true of" example:"load_10 < 20"`
		}) (*answer[api.List[api.Node]], error) {
			list, err := h.Service.NodeList(ctx, in.Filter)
			return cut(in.Page, list, err, func(_ int, n api.Node) string { return n.ID.String() })
		})
	add(h, endpoint(route.CordonNode, "nodes", "Say whether nothing new is to be put on a node", ""),
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
	add(h, endpoint(route.GetFailover, "nodes", "Say whether volumes fail over by themselves", ""),
		func(ctx context.Context, _ *struct{}) (*answer[api.FailoverState], error) {
			return reply(h.Service.Failover(ctx))
		})
	add(h, endpoint(route.GetHealth, "nodes", "Get the state of the store, the control replicas and the nodes", ""),
		func(ctx context.Context, _ *struct{}) (*answer[api.ClusterHealth], error) {
			return reply(h.Service.ClusterHealth(ctx))
		})
	add(h, agents(route.RegisterNode, "Present a node and its pools"),
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
	add(h, agents(route.Renew, "Say that the node's agent is alive"),
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
	add(h, agents(route.Commit, "Put the outcome of an operation on record"),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.Report
		}) (*answer[api.Committed], error) {
			changeOf(ctx).noteReport(in.Body.Operation)
			return reply(h.Service.Commit(ctx, in.Node, in.Body))
		})
	add(h, agents(route.Record, "Put an operation on record as running"),
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
	add(h, agents(route.Recall, "Have the home of a move asked for its lease"),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.Report
		}) (*work[dataset.Operation], error) {
			changeOf(ctx).noteReport(in.Body.Operation)
			op, err := h.Service.Recall(ctx, in.Node, in.Body)
			return follow(op, unended(&op), err)
		})
	add(h, agents(route.Yield, "Answer a recall"),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.Yield
		}) (*struct{}, error) {
			return nil, h.Service.Yield(ctx, in.Node, in.Body)
		})
	add(h, agents(route.Copied, "Say what the node's copy of a dataset is now"),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.CopyReport
		}) (*struct{}, error) {
			return nil, h.Service.Copied(ctx, in.Node, in.Body)
		})
	add(h, agents(route.Guest, "Stay with a dataset that several hosts may mount, or do so no more"),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.SharedMountReport
		}) (*answer[api.Indexed], error) {
			return reply(h.Service.Guest(ctx, in.Node, in.Body))
		})
}

// feeds adds the endpoints that keep an agent and control informed about each other.
func (h handlers) feeds() {
	sync := agents(route.Sync, "Wait for what changes for the node")
	add(h, sync, func(ctx context.Context, in *struct {
		NodeParam
		Rev  uint64 `query:"rev" doc:"what changed after this revision; left out: everything, at once"`
		Wait string `query:"wait" doc:"for at most so long" example:"30s"`
	}) (*answer[api.Sync], error) {
		wait, err := wire.ParseWait(in.Wait)
		if err != nil {
			return nil, err
		}
		ctx, end := waiting(ctx)
		s, err := h.Service.Sync(ctx, in.Node, in.Rev, wait)
		return reply(s, end(err))
	})
	heartbeat := agents(route.Heartbeat, "Say what the node sees")
	heartbeat.MaxBodyBytes = maxHeartbeatBytes
	heartbeat.Middlewares = append(heartbeat.Middlewares, limitConcurrency("heartbeats", maxHeartbeats, 0))
	add(h, heartbeat, func(ctx context.Context, in *struct {
		NodeParam
		Body api.Heartbeat
	}) (*struct{}, error) {
		return nil, h.Service.Heartbeat(ctx, in.Node, in.Body)
	})
	add(h, agents(route.Facts, "Say what the node's host is and how it does"),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.FactsReport
		}) (*answer[dataset.Facts], error) {
			return reply(h.Service.Facts(ctx, in.Node, in.Body))
		})
	add(h, agents(route.Generations, "Say of which generation the node's pools are"),
		func(ctx context.Context, in *struct {
			NodeParam
			Body api.Generations
		}) (*answer[api.Generations], error) {
			return reply(h.Service.Generations(ctx, in.Node, in.Body))
		})
	rebuild := agents(route.Rebuild, "Bring back what was found in the node's pools")
	rebuild.MaxBodyBytes = maxRebuildBytes
	rebuild.Middlewares = append(rebuild.Middlewares, limitConcurrency("rebuilds", maxRebuilds, maxRebuildsTotal))
	add(h, rebuild, func(ctx context.Context, in *struct {
		NodeParam
		Body []api.FoundDataset
	}) (*answer[api.List[api.Rebuilt]], error) {
		return all(h.Service.Rebuild(ctx, in.Node, in.Body))
	})
}
