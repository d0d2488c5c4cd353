package client

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

// Nodes implements api.Nodes: the requests of an agent for its node.
type Nodes struct{ conn *connection }

// Register presents a node and its pools.
func (n Nodes) Register(ctx context.Context, r api.Registration) error {
	return tell(ctx, n.conn, endpoint.RegisterNode, about(r.Node.ID, r))
}

// Renew reports that the node's agent is alive.
func (n Nodes) Renew(ctx context.Context, id, incarnation uuid.UUID) (api.SessionState, error) {
	return ask(ctx, n.conn, endpoint.Renew, about(id, api.Renewal{Incarnation: incarnation}))
}

// Generations reports the generations of the node's pools.
func (n Nodes) Generations(ctx context.Context, id uuid.UUID, g api.Generations) (api.Generations, error) {
	return ask(ctx, n.conn, endpoint.Generations, about(id, g))
}

// Plan asks control to decide on a request.
func (n Nodes) Plan(ctx context.Context, id uuid.UUID, req api.Request) (api.Plan, error) {
	return ask(ctx, n.conn, endpoint.Plan, about(id, req))
}

// Commit records the result of an operation.
func (n Nodes) Commit(ctx context.Context, id uuid.UUID, r api.Report) (api.Committed, error) {
	k, again := newCall(endpoint.Commit.Endpoint, about(id, r)), false
	k.repeat = func() any {
		again, r.Retry = true, true
		return r
	}
	out, err := fetch[api.Committed](ctx, n.conn, k)
	if err != nil && again && !errors.Is(err, dataset.ErrCancelled) {
		// The first attempt may have succeeded, and the second one may have been refused for that reason.
		err = dataset.Errorf(dataset.ErrUnavailable, "%w", err)
	}
	return out, err
}

// Record records an operation as running.
func (n Nodes) Record(ctx context.Context, id uuid.UUID, r api.Report) error {
	return tell(ctx, n.conn, endpoint.Record, about(id, r))
}

// Sync waits for changes as described in api.Nodes, for at most ten minutes.
func (n Nodes) Sync(ctx context.Context, id uuid.UUID, rev uint64, wait time.Duration) (api.Sync, error) {
	k := newCall(endpoint.Sync.Endpoint, endpoint.SyncParams{
		NodeParam: endpoint.NodeParam{Node: id}, Rev: rev, Wait: wire.FormatWait(wait),
	})
	k.patience = min(max(wait, 0), wire.MaxWait)
	if rev == 0 {
		k.patience += 5 * time.Minute // the server reads everything about the node before it answers
	}
	return fetch[api.Sync](ctx, n.conn, k)
}

// Heartbeat reports the present state of the node's pools, datasets, copies and operations.
func (n Nodes) Heartbeat(ctx context.Context, id uuid.UUID, h api.Heartbeat) error {
	return tell(ctx, n.conn, endpoint.Heartbeat, about(id, h))
}

// Recall asks control to recall the lease from the home of a move.
func (n Nodes) Recall(ctx context.Context, id uuid.UUID, r api.Report) (dataset.Operation, error) {
	return ask(ctx, n.conn, endpoint.Recall, about(id, r))
}

// Yield answers a recall, for the home.
func (n Nodes) Yield(ctx context.Context, id uuid.UUID, y api.Yield) error {
	return tell(ctx, n.conn, endpoint.Yield, about(id, y))
}

// ReportCopy reports the state of the node's copy of a dataset.
func (n Nodes) ReportCopy(ctx context.Context, id uuid.UUID, k api.CopyReport) error {
	return tell(ctx, n.conn, endpoint.ReportCopy, about(id, k))
}

// ReportSharedMount reports that the node begins or ends its use of a shared dataset.
func (n Nodes) ReportSharedMount(ctx context.Context, id uuid.UUID,
	g api.SharedMountReport) (api.IndexedDataset, error) {
	return ask(ctx, n.conn, endpoint.SharedMount, about(id, g))
}

// Facts reports the facts of the host.
func (n Nodes) Facts(ctx context.Context, id uuid.UUID, r api.FactsReport) (dataset.Facts, error) {
	return ask(ctx, n.conn, endpoint.Facts, about(id, r))
}

// ReportHoldings reports what the node holds, for a recovery.
func (n Nodes) ReportHoldings(ctx context.Context, id uuid.UUID, h api.Holdings) error {
	return tell(ctx, n.conn, endpoint.ReportHoldings, about(id, h))
}

// Rebuild restores the datasets that were found in the node's pools.
func (n Nodes) Rebuild(ctx context.Context, id uuid.UUID, found []api.FoundDataset, dryRun bool) (
	[]api.Rebuilt, error) {
	if found == nil {
		found = []api.FoundDataset{}
	}
	k := newCall(endpoint.Rebuild.Endpoint, endpoint.RebuildReport{
		NodeParam: endpoint.NodeParam{Node: id}, DryRunParam: endpoint.DryRunParam{DryRun: dryRun}, Body: found,
	})
	k.patience = wire.MaxWait // the server does all the work before it answers
	l, err := fetch[api.List[api.Rebuilt]](ctx, n.conn, k)
	return l.Items, err
}

// about returns a request about a node: of its agent, or of an operator.
func about[T any](id uuid.UUID, body T) endpoint.Report[T] {
	return endpoint.Report[T]{NodeParam: endpoint.NodeParam{Node: id}, Body: body}
}
