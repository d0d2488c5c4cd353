package client

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/route"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

// Nodes implements api.Nodes: the requests of an agent for its node.
type Nodes struct{ conn *connection }

// Register presents a node and its pools.
func (n Nodes) Register(ctx context.Context, r api.Registration) error {
	return n.conn.send(ctx, node(route.RegisterNode, r.Node.ID, r))
}

// Renew reports that the node's agent is alive.
func (n Nodes) Renew(ctx context.Context, id, incarnation uuid.UUID) (api.SessionState, error) {
	return fetch[api.SessionState](ctx, n.conn, node(route.Renew, id, api.Renewal{Incarnation: incarnation}))
}

// Generations reports the generations of the node's pools.
func (n Nodes) Generations(ctx context.Context, id uuid.UUID, g api.Generations) (api.Generations, error) {
	return fetch[api.Generations](ctx, n.conn, node(route.Generations, id, g))
}

// Plan asks control to decide on a request.
func (n Nodes) Plan(ctx context.Context, id uuid.UUID, req api.Request) (api.Plan, error) {
	return fetch[api.Plan](ctx, n.conn, node(route.Plan, id, req))
}

// Commit records the result of an operation.
func (n Nodes) Commit(ctx context.Context, id uuid.UUID, r api.Report) (api.Committed, error) {
	k, again := node(route.Commit, id, r), false
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
	return n.conn.send(ctx, node(route.Record, id, r))
}

// Sync waits for changes as described in api.Nodes, for at most ten minutes.
func (n Nodes) Sync(ctx context.Context, id uuid.UUID, rev uint64, wait time.Duration) (api.Sync, error) {
	k := node(route.Sync, id, nil)
	k.query, k.patience = query("wait", wire.FormatWait(wait)), min(max(wait, 0), wire.MaxWait)
	if rev != 0 {
		k.query.Set("rev", strconv.FormatUint(rev, 10))
	} else {
		k.patience += 5 * time.Minute // the server reads everything about the node before it answers
	}
	return fetch[api.Sync](ctx, n.conn, k)
}

// Heartbeat reports the present state of the node's pools, datasets, copies and operations.
func (n Nodes) Heartbeat(ctx context.Context, id uuid.UUID, h api.Heartbeat) error {
	return n.conn.send(ctx, node(route.Heartbeat, id, h))
}

// Recall asks control to recall the lease from the home of a move.
func (n Nodes) Recall(ctx context.Context, id uuid.UUID, r api.Report) (dataset.Operation, error) {
	return fetch[dataset.Operation](ctx, n.conn, node(route.Recall, id, r))
}

// Yield answers a recall, for the home.
func (n Nodes) Yield(ctx context.Context, id uuid.UUID, y api.Yield) error {
	return n.conn.send(ctx, node(route.Yield, id, y))
}

// ReportCopy reports the state of the node's copy of a dataset.
func (n Nodes) ReportCopy(ctx context.Context, id uuid.UUID, k api.CopyReport) error {
	return n.conn.send(ctx, node(route.ReportCopy, id, k))
}

// ReportSharedMount reports that the node begins or ends its use of a shared dataset.
func (n Nodes) ReportSharedMount(ctx context.Context, id uuid.UUID,
	g api.SharedMountReport) (api.IndexedDataset, error) {
	return fetch[api.IndexedDataset](ctx, n.conn, node(route.SharedMount, id, g))
}

// Facts reports the facts of the host.
func (n Nodes) Facts(ctx context.Context, id uuid.UUID, r api.FactsReport) (dataset.Facts, error) {
	return fetch[dataset.Facts](ctx, n.conn, node(route.Facts, id, r))
}

// ReportHoldings reports what the node holds, for a recovery.
func (n Nodes) ReportHoldings(ctx context.Context, id uuid.UUID, h api.Holdings) error {
	return n.conn.send(ctx, node(route.ReportHoldings, id, h))
}

// Rebuild restores the datasets that were found in the node's pools.
func (n Nodes) Rebuild(ctx context.Context, id uuid.UUID, found []api.FoundDataset, dryRun bool) (
	[]api.Rebuilt, error) {
	if found == nil {
		found = []api.FoundDataset{}
	}
	k := node(route.Rebuild, id, found)
	k.query = query("dry_run", flag(dryRun))
	k.patience = wire.MaxWait // the server does all the work before it answers
	l, err := fetch[api.List[api.Rebuilt]](ctx, n.conn, k)
	return l.Items, err
}

// node returns an idempotent call about a node: a call of its agent, or one of an operator, such as Cordon.
func node(r route.Route, id uuid.UUID, body any) call {
	return newCall(r, id.String()).with(body).idempotent()
}
