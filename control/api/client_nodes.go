package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Register presents a node.
func (c *Client) Register(ctx context.Context, r Registration) error {
	return c.tell(ctx, node(r.Node.ID, "/register", r))
}

// Renew says that the node's agent is alive.
func (c *Client) Renew(ctx context.Context, id, incarnation uuid.UUID) (Standing, error) {
	return ask[Standing](ctx, c, node(id, "/renew", Renewal{incarnation}))
}

// Generations says of which generation the node's pools are.
func (c *Client) Generations(ctx context.Context, id uuid.UUID, g Generations) (Generations, error) {
	return ask[Generations](ctx, c, node(id, "/generations", g))
}

// Plan asks for the decision on a request.
func (c *Client) Plan(ctx context.Context, id uuid.UUID, req Request) (Plan, error) {
	return ask[Plan](ctx, c, node(id, "/plan", req))
}

// Commit puts the outcome of an operation on record.
func (c *Client) Commit(ctx context.Context, id uuid.UUID, r Report) (Committed, error) {
	k, again := node(id, "/commit", r), false
	k.repeat = func() any {
		again, r.Again = true, true
		return r
	}
	out, err := ask[Committed](ctx, c, k)
	if err != nil && again && !errors.Is(err, dataset.ErrCancelled) {
		// The first may have been taken, and its outcome be what the second was refused for.
		err = dataset.Errorf(dataset.ErrUnavailable, "%w", err)
	}
	return out, err
}

// Record puts an operation on record as running.
func (c *Client) Record(ctx context.Context, id uuid.UUID, r Report) error {
	return c.tell(ctx, node(id, "/record", r))
}

// Sync waits for changes as Nodes says, ten minutes at most.
func (c *Client) Sync(ctx context.Context, id uuid.UUID, rev uint64, wait time.Duration) (Sync, error) {
	k := node(id, "/sync", nil)
	k.method = http.MethodGet
	k.query, k.patience = query("wait", waitFor(wait)), min(max(wait, 0), maxWait)
	if rev != 0 {
		k.query.Set("rev", strconv.FormatUint(rev, 10))
	} else {
		k.patience += 5 * time.Minute // all that the node has is read before the answer begins
	}
	return ask[Sync](ctx, c, k)
}

// Heartbeat says what the node sees.
func (c *Client) Heartbeat(ctx context.Context, id uuid.UUID, h Heartbeat) error {
	return c.tell(ctx, node(id, "/heartbeat", h))
}

// Recall has the home of a move asked for its lease.
func (c *Client) Recall(ctx context.Context, id uuid.UUID, r Report) (dataset.Operation, error) {
	return ask[dataset.Operation](ctx, c, node(id, "/recall", r))
}

// Yield is the home's answer to a recall.
func (c *Client) Yield(ctx context.Context, id uuid.UUID, y Yield) error {
	return c.tell(ctx, node(id, "/yield", y))
}

// Copied says what a node's copy of a dataset is now.
func (c *Client) Copied(ctx context.Context, id uuid.UUID, k Copied) error {
	return c.tell(ctx, node(id, "/copied", k))
}

// Guest says that the node stays with a dataset, or does so no more.
func (c *Client) Guest(ctx context.Context, id uuid.UUID, g Stay) (Indexed, error) {
	return ask[Indexed](ctx, c, node(id, "/guest", g))
}

// Facts says what the host is.
func (c *Client) Facts(ctx context.Context, id uuid.UUID, r FactsReport) (dataset.Facts, error) {
	return ask[dataset.Facts](ctx, c, node(id, "/facts", r))
}

// Rebuild brings back what was found.
func (c *Client) Rebuild(ctx context.Context, id uuid.UUID, found []Found) ([]Rebuilt, error) {
	if found == nil {
		found = []Found{}
	}
	k := node(id, "/rebuild", found)
	k.patience = maxWait // all of it is done before the answer begins
	l, err := ask[List[Rebuilt]](ctx, c, k)
	return l.Items, err
}

// node is a call for a node: all of them can be made twice.
func node(id uuid.UUID, what string, body any) call {
	return call{method: http.MethodPost, path: "/v1/nodes/" + id.String() + what, body: body, again: true}
}
