package client

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

// Nodes implements api.Nodes: the requests of an agent for its node.
type Nodes struct{ conn *connection }

// Register presents a node.
func (n Nodes) Register(ctx context.Context, r api.Registration) error {
	return n.conn.tell(ctx, node(r.Node.ID, "/register", r))
}

// Renew says that the node's agent is alive.
func (n Nodes) Renew(ctx context.Context, id, incarnation uuid.UUID) (api.Standing, error) {
	return ask[api.Standing](ctx, n.conn, node(id, "/renew", api.Renewal{Incarnation: incarnation}))
}

// Generations says of which generation the node's pools are.
func (n Nodes) Generations(ctx context.Context, id uuid.UUID, g api.Generations) (api.Generations, error) {
	return ask[api.Generations](ctx, n.conn, node(id, "/generations", g))
}

// Plan asks for the decision on a request.
func (n Nodes) Plan(ctx context.Context, id uuid.UUID, req api.Request) (api.Plan, error) {
	return ask[api.Plan](ctx, n.conn, node(id, "/plan", req))
}

// Commit puts the outcome of an operation on record.
func (n Nodes) Commit(ctx context.Context, id uuid.UUID, r api.Report) (api.Committed, error) {
	k, again := node(id, "/commit", r), false
	k.repeat = func() any {
		again, r.Again = true, true
		return r
	}
	out, err := ask[api.Committed](ctx, n.conn, k)
	if err != nil && again && !errors.Is(err, dataset.ErrCancelled) {
		// The first may have been taken, and its outcome be what the second was refused for.
		err = dataset.Errorf(dataset.ErrUnavailable, "%w", err)
	}
	return out, err
}

// Record puts an operation on record as running.
func (n Nodes) Record(ctx context.Context, id uuid.UUID, r api.Report) error {
	return n.conn.tell(ctx, node(id, "/record", r))
}

// Sync waits for changes as Nodes says, ten minutes at most.
func (n Nodes) Sync(ctx context.Context, id uuid.UUID, rev uint64, wait time.Duration) (api.Sync, error) {
	k := node(id, "/sync", nil)
	k.method = http.MethodGet
	k.query, k.patience = query("wait", wire.FormatWait(wait)), min(max(wait, 0), wire.MaxWait)
	if rev != 0 {
		k.query.Set("rev", strconv.FormatUint(rev, 10))
	} else {
		k.patience += 5 * time.Minute // all that the node has is read before the answer begins
	}
	return ask[api.Sync](ctx, n.conn, k)
}

// Heartbeat says what the node sees.
func (n Nodes) Heartbeat(ctx context.Context, id uuid.UUID, h api.Heartbeat) error {
	return n.conn.tell(ctx, node(id, "/heartbeat", h))
}

// Recall has the home of a move asked for its lease.
func (n Nodes) Recall(ctx context.Context, id uuid.UUID, r api.Report) (dataset.Operation, error) {
	return ask[dataset.Operation](ctx, n.conn, node(id, "/recall", r))
}

// Yield is the home's answer to a recall.
func (n Nodes) Yield(ctx context.Context, id uuid.UUID, y api.Yield) error {
	return n.conn.tell(ctx, node(id, "/yield", y))
}

// Copied says what a node's copy of a dataset is now.
func (n Nodes) Copied(ctx context.Context, id uuid.UUID, k api.Copied) error {
	return n.conn.tell(ctx, node(id, "/copied", k))
}

// Guest says that the node stays with a dataset, or does so no more.
func (n Nodes) Guest(ctx context.Context, id uuid.UUID, g api.Stay) (api.Indexed, error) {
	return ask[api.Indexed](ctx, n.conn, node(id, "/guest", g))
}

// Facts says what the host is.
func (n Nodes) Facts(ctx context.Context, id uuid.UUID, r api.FactsReport) (dataset.Facts, error) {
	return ask[dataset.Facts](ctx, n.conn, node(id, "/facts", r))
}

// Hold says what the node holds.
func (n Nodes) Hold(ctx context.Context, id uuid.UUID, h api.Holdings) error {
	return n.conn.tell(ctx, node(id, "/hold", h))
}

// Rebuild brings back what was found.
func (n Nodes) Rebuild(ctx context.Context, id uuid.UUID, found []api.Found) ([]api.Rebuilt, error) {
	if found == nil {
		found = []api.Found{}
	}
	k := node(id, "/rebuild", found)
	k.patience = wire.MaxWait // all of it is done before the answer begins
	l, err := ask[api.List[api.Rebuilt]](ctx, n.conn, k)
	return l.Items, err
}

// node is a call for a node: all of them can be made twice.
func node(id uuid.UUID, what string, body any) call {
	return call{method: http.MethodPost, path: "/v1/nodes/" + id.String() + what, body: body, again: true}
}
